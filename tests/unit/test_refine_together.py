"""Several types of one model share the pass over the original, and come out as when each is refined alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from ggufkit.core.progress import SilentReporter
from ggufkit.refine.engine import RefineInputs, refine_gguf, refine_layers_together
from ggufkit.refine.layerwise import Layers
from ggufkit.refine.options import RefineOptions
from ggufkit.refine.sides import Side
from ggufkit.refine.state import State
from tests.unit.test_refine_engine import CALIBRATION, Case, write_gguf

TYPES = ("Q4_0", "Q5_0")
OPTIONS = RefineOptions(device="cpu", include_output=True)


class Stopped(Exception):
    """A run was cut."""


class Types:
    """A tiny model in some types, refined alone or together."""

    def __init__(self, root: Path) -> None:
        self._case = Case(root)
        self.inputs = {kind: self._inputs(kind) for kind in TYPES}

    def _inputs(self, kind: str) -> RefineInputs:
        case = self._case
        file = write_gguf(case.checkpoint, case.root / f"{kind}.gguf", kind)
        return RefineInputs(file, case.base, case.checkpoint, CALIBRATION)

    def state(self, kind: str) -> Path:
        """Where the state of a type is kept."""
        return self._case.root / f"state-{kind}"

    def finish(self, kind: str) -> bytes:
        """What one type's file becomes, from whatever its state has come to."""
        out = self._case.root / f"refined-{kind}.gguf"
        refine_gguf(self.inputs[kind], out, OPTIONS, state_dir=self.state(kind), reporter=SilentReporter())
        return out.read_bytes()

    def together(self, *kinds: str, options: RefineOptions = OPTIONS) -> None:
        """Refine the layers of some types in one pass."""
        files = {self.state(kind): self.inputs[kind] for kind in kinds}
        refine_layers_together(files, options, SilentReporter())


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny matrices gain nothing from a second."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def types(tmp_path_factory: pytest.TempPathFactory) -> Types:
    """The same for all tests, which leave no state."""
    return Types(tmp_path_factory.mktemp("types"))


@pytest.fixture(scope="module")
def alone(types: Types, one_thread: None) -> dict[str, bytes]:
    """What becomes of each if it is refined alone."""
    return {kind: types.finish(kind) for kind in TYPES}


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the sides that were run, one for each batch."""
    names: list[str] = []
    real = Side.run

    def noted(self: Side, *args: Any, **more: Any) -> Any:
        names.append(self.name)
        return real(self, *args, **more)

    monkeypatch.setattr(Side, "run", noted)
    return names


def test_types_refined_together_have_the_same_bytes_and_run_the_original_once(
    types: Types, alone: dict[str, bytes], runs: list[str]
) -> None:
    types.finish(TYPES[0])
    of_one = runs.count("original")
    runs.clear()
    types.together(*TYPES)
    assert runs.count("original") == of_one
    assert runs.count("refined") > len(TYPES) * of_one
    runs.clear()
    assert {kind: types.finish(kind) for kind in TYPES} == alone
    assert runs == []
    assert not any(types.state(kind).exists() for kind in TYPES)


def test_a_run_that_was_cut_goes_on_together(
    types: Types, alone: dict[str, bytes], runs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Layers._layer

    def cut(self: Layers, index: int, pace: Any) -> None:
        if index == 1:
            raise Stopped
        real(self, index, pace)

    monkeypatch.setattr(Layers, "_layer", cut)
    with pytest.raises(Stopped):
        types.together(*TYPES)
    monkeypatch.setattr(Layers, "_layer", real)
    until_cut = len(runs)
    types.together(*TYPES)
    assert len(runs) == 2 * until_cut
    assert {kind: types.finish(kind) for kind in TYPES} == alone


def test_a_run_that_was_cut_while_it_left_a_layer_harms_nobody(
    types: Types, alone: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = State.enter

    def cut(self: State, layer: int) -> None:
        if self.path == types.state("Q5_0"):
            raise Stopped
        real(self, layer)

    monkeypatch.setattr(State, "enter", cut)
    with pytest.raises(Stopped):
        types.together(*TYPES)
    monkeypatch.setattr(State, "enter", real)
    assert {kind: types.finish(kind) for kind in reversed(TYPES)} == alone


def test_what_cannot_share_a_pass_is_left_alone(types: Types) -> None:
    types.together("Q4_0")
    types.together("Q4_0", "Q5_0", options=RefineOptions(device="cpu", sequential=False))
    assert not any(types.state(kind).exists() for kind in TYPES)
