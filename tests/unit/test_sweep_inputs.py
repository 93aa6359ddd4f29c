"""Files that a request names, on a machine that does not have them."""

from __future__ import annotations

import typing
from pathlib import Path

import pytest

from ggufkit.request import GROUPS, BuildRequest
from ggufkit.sweep import inputs
from ggufkit.sweep.keeper import Desk
from ggufkit.sweep.stores import PathStore, RemoteStore
from tests.unit.test_sweep_stores import AtDesk


def files(home: Path) -> Path:
    """What a driver has on its disk."""
    (home / "model").mkdir(parents=True)
    for name in (
        "model/config.json",
        "model/w.safetensors",
        "text.txt",
        "chat.jsonl",
        "types.yaml",
        "tt.txt",
        "own.json",
    ):
        (home / name).write_text(f"{name}\n")
    return home


def asked(home: Path) -> BuildRequest:
    return BuildRequest(
        str(home / "model"), types=f"q4_k_m,recipe:{home}/types.yaml",
        calibration=(f"{home}/chat.jsonl:0.5", "wikitext2-train:0.5"),
        corpus=f"{home}/text.txt", tasks=f"arc,mine={home}/own.json", tensor_type_file=f"{home}/tt.txt",
    )  # fmt: skip


def test_what_is_not_here_comes_from_the_store(tmp_path: Path) -> None:
    home = files(tmp_path / "driver")
    request, keeper = asked(home), PathStore(tmp_path / "out")
    given = inputs.offered(request, keeper)
    assert {one.name for one in given} == {"model", "text.txt", "chat.jsonl", "types.yaml", "tt.txt", "own.json"}
    elsewhere = RemoteStore(tmp_path / "worker", AtDesk(Desk(keeper)))
    moved = home.rename(tmp_path / "moved")
    for link in (tmp_path / "out").rglob("*"):  # the keeper still has them
        if link.is_symlink():
            target = moved / link.readlink().relative_to(home.resolve())
            link.unlink()
            link.symlink_to(target)
    local = inputs.localized(request, given, elsewhere)
    assert Path(local.model).name == "model"
    assert Path(local.model).is_relative_to(tmp_path / "worker")
    assert (Path(local.model) / "w.safetensors").read_text() == "model/w.safetensors\n"
    assert local.types[0] == "q4_k_m"
    assert Path(local.types[1].removeprefix("recipe:")).read_text() == "types.yaml\n"
    assert local.calibration.text[0].endswith("chat.jsonl:0.5")
    assert local.calibration.text[1] == "wikitext2-train:0.5"
    assert Path(local.evaluation.tasks[1].removeprefix("mine=")).is_relative_to(tmp_path / "worker")
    assert Path(str(local.evaluation.corpus)).read_text() == "text.txt\n"
    assert local.overrides.tensor_type_file is not None
    assert local.overrides.tensor_type_file.read_text() == "tt.txt\n"


def test_what_is_here_stays_where_it_is(tmp_path: Path) -> None:
    request, store = asked(files(tmp_path / "driver")), PathStore(tmp_path / "out")
    assert inputs.localized(request, inputs.offered(request, store), store) == request


def test_names_of_hubs_and_texts_are_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("q4_k_m", "wikitext2", "arc"):
        (tmp_path / name).mkdir()
    request = BuildRequest("qwen2.5-0.5b", types="q4_k_m,4.5bpw", corpus="wikitext2", tasks="arc")
    assert inputs.offered(request, PathStore(tmp_path)) == ()


def test_no_path_of_a_request_is_forgotten() -> None:
    paths = {
        (group, name)
        for group, kind in GROUPS.items()
        for name, its in typing.get_type_hints(kind).items()
        if Path in (its, *typing.get_args(its))
    }
    assert paths <= set(inputs.PATHS)
