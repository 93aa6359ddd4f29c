"""A method of a package, as a step: what it leaves is checked, and what it raises is told as its package's."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ggufkit.core.errors import InputError, ToolError
from ggufkit.core.methods import Method, Work
from ggufkit.core.records import Checkpoint
from ggufkit.models import sources
from ggufkit.steps.method import STEP, Asked, change_checkpoint
from ggufkit.steps.session import Session
from ggufkit.steps.step import Workspace
from tests import tiny
from tests.unit.test_bench import TOOLS


@pytest.fixture
def model(tmp_path: Path) -> Checkpoint:
    found = sources.resolve(str(tiny.write_llama(tmp_path / "tiny", layers=1)))
    assert isinstance(found, Checkpoint)
    return found


def copy(work: Work) -> dict[str, int]:
    shutil.copytree(work.source, work.output, dirs_exist_ok=True)
    return {"files": len(list(work.output.iterdir()))}


def drop_a_file(work: Work) -> None:
    copy(work)
    (work.output / "config.json").unlink()


def wider(work: Work) -> None:
    shutil.rmtree(work.output)
    tiny.write_llama(work.output, layers=1, inner=256)


def fail(_work: Work) -> None:
    raise ZeroDivisionError("by nothing")


def leave(_work: Work) -> None:
    raise SystemExit(3)


def refuse(_work: Work) -> None:
    raise InputError("This model is none of mine.", hint="Take another.")


def work_at(tmp_path: Path) -> Session:
    return Session(TOOLS, Workspace(tmp_path / "out"), threads=1)


def method(run: Callable[[Work], object]) -> Method:
    return Method("mine", "checkpoint", run, package="toy", version="1.0")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("run", "why"),
    [
        (drop_a_file, "it left no checkpoint"),
        (wider, "tensor model.layers.0.mlp"),
        (fail, "ZeroDivisionError: by nothing"),
        (leave, "SystemExit: 3"),
    ],
)
def test_what_a_method_does_wrong_is_its_package_s(
    model: Checkpoint, tmp_path: Path, run: Callable[[Work], object], why: str
) -> None:
    output = tmp_path / "out" / "mine"
    with pytest.raises(ToolError, match=r"mine of toy 1\.0 failed on this model: ") as raised:
        change_checkpoint(model, Asked(method(run)), output, work_at(tmp_path))
    assert why in raised.value.message
    assert "toy" in str(raised.value.hint)
    assert not output.exists()


def test_what_a_method_refuses_is_said_as_it_says_it(model: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="none of mine"):
        change_checkpoint(model, Asked(method(refuse)), tmp_path / "out" / "mine", work_at(tmp_path))


def test_another_version_of_the_package_makes_it_anew(model: Checkpoint, tmp_path: Path) -> None:
    mine, output, session = method(copy), tmp_path / "out" / "mine", work_at(tmp_path)
    made = change_checkpoint(model, Asked(mine), output, session)
    assert made.manifest.step == STEP
    assert made.manifest.notes["said"] == {"files": 4}
    assert change_checkpoint(model, Asked(mine), output, session).fresh
    later = change_checkpoint(model, Asked(replace(mine, version="1.1")), output, session)
    assert not later.fresh
    assert later.reason == "parameter package_version was 1.0, now 1.1"
