"""A real server on tiny real models that draft: with layers of their own for it, and with another file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from filelock import FileLock

from ggufkit.core.records import Toolchain
from ggufkit.llama import mtp, server_tool
from ggufkit.llama.gguf import read_header
from ggufkit.serving.server import free_port
from tests import tiny
from tests.integration.run_cli import fails
from tests.integration.run_cli import ggufkit as command

QUICK = ("--backend", "cpu", "--threads", 1)


@pytest.fixture(scope="module")
def guessing(tools: Toolchain, whole_run: Path) -> Path:
    """The F16 file of a Qwen3.5 whose MTP layer guesses right."""
    home = whole_run / "guessing"
    output = home / "right-F16.gguf"
    with FileLock(whole_run / "guessing.lock"):
        if not output.exists():
            tiny.write_qwen35(home / "right", mtp="right")
            made = command("convert", home / "right", "--out", home, "--mtp")
            assert made.code == 0, made.err
    return output


def found(*served: object) -> dict[str, dict[str, object]]:
    """What `serve --check` finds, by name."""
    pytest.importorskip("openai", reason="the extra `serve` is not installed")
    ended = command("serve", *served, "--check", "--json", "--port", free_port(), "--ctx", 512, *QUICK)
    assert ended.code == 0, ended.out + ended.err
    return {one["name"]: one for one in json.loads(ended.out)}


@pytest.fixture
def server(tools: Toolchain) -> None:
    if not tools.binary(server_tool.NAME).is_file():
        pytest.skip("llama-server is not built: ggufkit toolchain install --server")


def test_layers_that_no_text_runs_through_have_a_type_of_their_own(guessing: Path, tmp_path: Path) -> None:
    calibration = tiny.text_file(tmp_path / "calibration.txt", 60)
    made = command(
        "imatrix", guessing, "--calibration", calibration, "--calibration-samples", 2, "--out", tmp_path, *QUICK
    )
    assert made.code == 0, made.err
    assert "blk.4." not in made.err, "that it has no data for them is as it must be"
    matrix = tmp_path / "right-F16.imatrix"
    made = command("quantize", guessing, "--types", "iq2_xs", "--imatrix", matrix, "--out", tmp_path)
    assert made.code == 0, made.err
    header = read_header(Path(made.out.strip()))
    own = mtp.tensors(header)
    assert {t.type for t in header.tensors if t.name in own and len(t.shape) > 1} == {"Q8_0"}
    assert "IQ2_XS" in {t.type for t in header.tensors if t.name not in own}
    manifest = json.loads(Path(f"{header.path}.manifest.json").read_text(encoding="utf-8"))
    assert manifest["params"]["mtp"] == "Q8_0"


def test_a_model_drafts_with_its_own_layers(guessing: Path, server: None) -> None:
    one = found(guessing, "--mtp", "--draft-max", 2)["with draft"]
    assert one["passed"] is True
    assert one["accepted"] == one["drafted"], one["said"]
    assert str(one["said"]).startswith("the same answers; ")


def test_another_file_drafts(guessing: Path, server: None, tmp_path: Path) -> None:
    one = found(guessing, "--draft", guessing)["with draft"]
    assert one["passed"] is True
    assert one["accepted"] == one["drafted"], "it guesses what it says itself"
    parrot = tiny.write_parrot(tmp_path / "parrot.gguf", "x", "{{ messages }}")
    said = fails(3, "serve", guessing, "--draft", parrot, "--port", free_port())
    assert "parrot.gguf cannot draft for right-F16.gguf: its tokenizer is llama, that of the model gpt2." in said


def test_layers_that_are_wished_or_not(tools: Toolchain, tmp_path: Path) -> None:
    lacking = tiny.write_qwen35(tmp_path / "lacking", mtp="none")
    made = command("convert", lacking, "--out", tmp_path / "out")
    assert made.code == 0, made.err
    assert "lacking has no MTP layers, though its config.json tells of them" in " ".join(made.err.split())
    assert not mtp.layers(read_header(tmp_path / "out" / "lacking-F16.gguf"))
    wished = command("build", lacking, "--mtp", "--types", "q8_0", "--out", tmp_path / "other", "--dry-run")
    assert (wished.code, wished.out) == (3, "")
    assert "has no MTP layers" in wished.err
