"""A checkpoint that reads images: the text model and its mmproj, which belong together and are proven to see."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from filelock import FileLock

from ggufkit import publish
from ggufkit.core.errors import GgufError, UnsupportedArchitecture
from ggufkit.core.manifest import read_manifest
from ggufkit.core.progress import Listener, SilentReporter
from ggufkit.core.records import Checkpoint, Toolchain
from ggufkit.llama import server_tool
from ggufkit.llama.gguf import read_header
from ggufkit.models import sources
from ggufkit.pipeline import build as building
from ggufkit.pipeline import plan as planning
from ggufkit.pipeline import senses
from ggufkit.pipeline.resources import PlannedPart
from ggufkit.publish.selection import Selection
from ggufkit.report import card, results
from ggufkit.report.downloads import Shelf
from ggufkit.request import BuildRequest
from ggufkit.serving import sight
from ggufkit.serving.server import free_port
from ggufkit.steps import mmproj
from ggufkit.steps.convert import ConvertOptions
from ggufkit.steps.mmproj import MmprojNotes
from ggufkit.steps.session import Session
from tests import tiny_vision
from tests.integration.run_cli import ggufkit as command

NAME = "mmproj-tiny-smol-F16.gguf"


@pytest.fixture(scope="module", autouse=True)
def program(tools: Toolchain) -> Path:
    """llama-server, where it is built: that takes minutes."""
    if not tools.binary(server_tool.NAME).is_file():
        pytest.skip("llama-server is not built: ggufkit toolchain install --server")
    return tools.binary(server_tool.NAME)


def request(home: Path) -> BuildRequest:
    """Both files of the checkpoint in a directory, and one quantized one; nothing is measured."""
    how: dict[str, Any] = {"eval": False, "bench": False, "backend": "cpu", "threads": 2}
    return BuildRequest(home / "tiny-smol", home / "out", types="q8_0", **how)


@pytest.fixture(scope="module")
def seeing(whole_run: Path) -> Path:
    """What `build` makes of the checkpoint beside it, made once, to be left as it is."""
    home = whole_run / "seeing"
    with FileLock(whole_run / "seeing.lock"):
        if not (home / "out" / "report.md").exists():
            tiny_vision.write_smolvlm(home / "tiny-smol")
            planned: list[int] = []
            measure = mmproj.n_bytes

            def measured(checkpoint: Checkpoint, out_type: str, session: Session) -> int:
                planned.append(measure(checkpoint, out_type, session))
                return planned[0]

            with pytest.MonkeyPatch.context() as patched:
                patched.setattr(mmproj, "n_bytes", measured)
                assert building.build(request(home)).mmproj == home / "out" / NAME
            assert planned == [(home / "out" / NAME).stat().st_size]
    return home


def test_a_build_makes_both_and_an_image_changes_the_answer(seeing: Path) -> None:
    out = seeing / "out"
    assert [f.name for f in sorted(out.glob("*.gguf"))] == [NAME, "tiny-smol-F16.gguf", "tiny-smol-Q8_0.gguf"]
    made = read_manifest(out / NAME)
    assert made is not None
    notes = MmprojNotes.from_manifest(made)
    assert (notes.of, notes.reads) == ("tiny-smol", "images")
    assert (notes.image_tokens or 0) > 4
    assert (notes.image_difference or 0) > 0.01
    base = read_manifest(out / "tiny-smol-F16.gguf")
    assert base is not None
    assert base.inputs == made.inputs
    assert base.params == {"out_type": "f16", "name": "tiny-smol", "pre": None}  # as it was without an mmproj
    assert 0 < float(str(base.notes["logit_difference"])) < 1e-3  # the text model is the checkpoint's
    lines = (out / "Modelfile.Q8_0").read_text().splitlines()
    assert [line for line in lines if line.startswith("FROM")] == ["FROM ./tiny-smol-Q8_0.gguf", f"FROM ./{NAME}"]


def test_it_is_no_row_but_told_of_and_published(seeing: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = seeing / "out"
    rows = results.collect(out)
    assert [row.file for row in rows] == ["tiny-smol-F16.gguf", "tiny-smol-Q8_0.gguf"]
    for name in ("report.md", "report.html"):
        assert f"{NAME} (" in (out / name).read_text().replace("\\", "").replace("`", "")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for excluded, there in ((), 1), (("mmproj*",), 0):
        wanted = publish.Wanted(selection=Selection(exclude=excluded))
        parcel = publish.pack(out, "me/smol", wanted, look_only=True)
        assert [upload.path.name for upload in parcel.uploads].count(NAME) == there
    shelf = Shelf.of("me/smol", [row.file for row in rows])
    text = card.render_card(rows, out, shelf).text
    assert "pipeline_tag: image-text-to-text" in text
    assert "reads images for all of these files" in text


def test_nothing_is_made_again(seeing: Path) -> None:
    assert building.build(request(seeing)).made == 0
    planned, size = planning.plan(request(seeing)).mmproj, (seeing / "out" / NAME).stat().st_size
    assert planned == PlannedPart(NAME, "F16", size)


def test_a_client_proves_that_it_sees(seeing: Path) -> None:
    pytest.importorskip("openai", reason="the extra `serve` is not installed")
    file = seeing / "out" / "tiny-smol-Q8_0.gguf"
    quick = ("--backend", "cpu", "--threads", 2, "--ctx", 2048, "--port", free_port())
    ended = command("serve", file, "--check", "--json", *quick)
    found = {one["name"]: one for one in json.loads(ended.out)}
    assert found["image"]["passed"], found["image"]
    assert "tokens; another one changes log-probabilities by" in found["image"]["said"]
    wrong = tiny_vision.write_mmproj(seeing / "wrong.gguf", width=64)
    ended = command("serve", file, "--mmproj", wrong, *quick)
    assert ended.code == 3
    assert "wrong.gguf is of another model than tiny-smol-Q8_0.gguf" in ended.err
    hollow = tiny_vision.write_mmproj(seeing / "hollow.gguf")
    ended = command("serve", file, "--mmproj", hollow, *quick)
    assert (ended.code, "llama.cpp cannot load hollow.gguf: " in ended.err) == (3, True), ended.err
    ended = command("modelfile", file, "--no-mmproj")
    assert [line for line in ended.out.splitlines() if line.startswith("FROM")] == [f"FROM {file}"]


def test_one_that_makes_the_same_of_every_image_is_refused(seeing: Path, session: Session, tmp_path: Path) -> None:
    blind, model = shutil.copyfile(seeing / "out" / NAME, tmp_path / NAME), seeing / "out" / "tiny-smol-F16.gguf"
    last = read_header(blind).by_name["mm.model.fc.weight"]
    np.memmap(blind, np.uint8, "r+", last.offset, (last.n_bytes,))[:] = 0
    with pytest.raises(GgufError, match=f"does not see with {NAME}: another image changes log-probabilities by"):
        sight.prove(model, blind, session)


def test_images_that_llama_cpp_cannot_read_leave_the_text_model(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tiny_vision.write_smolvlm(tmp_path / "odd")
    config = json.loads((path / "config.json").read_text())
    config["vision_config"]["architectures"] = ["UnheardOfVisionModel"]
    (path / "config.json").write_text(json.dumps(config))
    found = sources.resolve(str(path))
    assert isinstance(found, Checkpoint)
    with pytest.raises(UnsupportedArchitecture, match="does not know the images or the sound of") as raised:
        senses.part_of(found, "odd", ConvertOptions(mmproj="f16"), session)
    assert "--mmproj none" in str(raised.value.hint)
    told = Listener(SilentReporter())
    monkeypatch.setattr(mmproj, "n_bytes", Mock(side_effect=raised.value))
    assert senses.part_of(found, "odd", ConvertOptions(), Session(session.tools, session.workspace, told)) is None
    assert "odd is made for text alone" in told.warnings[0]
