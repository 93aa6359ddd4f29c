"""What a GPU needs besides its kernels: blocks read there, hidden states kept there, saving beside the work."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ggufkit.core.progress import SilentReporter
from ggufkit.layers import HiddenStates, KeptStates, Room
from ggufkit.refine import kernels
from ggufkit.refine.behind import Behind, InTurn
from ggufkit.refine.codecs import CODECS
from ggufkit.refine.device_blocks import read_planes, write_planes
from ggufkit.refine.grid import read_grid, write_grid
from ggufkit.refine.kernels import REFERENCE, TorchKernels
from tests.unit.test_refine_rounding import EVEN, some_grid

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_without_its_kernels_a_gpu_does_the_reference_and_that_is_told() -> None:
    reporter = SilentReporter()
    assert kernels._find(torch.device("cuda"), reporter) is REFERENCE
    assert "several times slower" in reporter.warnings[0]


def test_a_type_without_kernels_for_gpus_is_done_by_the_reference_there(monkeypatch: pytest.MonkeyPatch) -> None:
    fast = TorchKernels()
    monkeypatch.setattr(kernels, "_known", {"cuda": fast, "cpu": fast})
    for name, codec in CODECS.items():
        assert kernels.for_codec(torch.device("cuda"), codec) is (fast if name in EVEN else REFERENCE)
        assert kernels.for_codec(torch.device("cpu"), codec) is fast


@pytest.mark.parametrize("name", EVEN)
def test_blocks_are_the_same_wherever_they_are_read(name: str) -> None:
    codec = CODECS[name]
    raw = write_grid(some_grid(name))
    planes = read_planes(codec, torch.from_numpy(raw).to(DEVICE))
    wanted = read_grid(codec, raw)
    for made, own in zip((planes[0].flatten(0, 1), *planes[1:]), wanted.tensors(), strict=True):
        assert torch.equal(made.cpu(), own)
        assert made.is_contiguous()
    assert np.array_equal(write_planes(codec, planes).cpu().numpy(), raw)


def kept(path: Path, monkeypatch: pytest.MonkeyPatch, *, room: bool = True) -> KeptStates:
    monkeypatch.setattr(Room, "holds", lambda *_: room)
    return KeptStates(path, (5, 2), 3, Room(DEVICE, 0))


def test_hidden_states_stay_in_memory_while_there_is_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values, states = torch.randn(5, 2, 3), kept(tmp_path / "a", monkeypatch)
    states.write(0, values[:4])
    states.write(4, values[4:])
    assert torch.equal(states.read(3, 9).cpu(), values[3:])
    assert not states.path.exists()
    assert isinstance(states.beside(tmp_path / "b", 7), KeptStates)
    states.forget()
    with pytest.raises(FileNotFoundError):
        states.read(0, 1)


def test_hidden_states_without_room_are_in_their_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values, states = torch.randn(5, 2, 3), kept(tmp_path / "a", monkeypatch, room=False)
    states.write(0, values)
    states.save()
    assert torch.equal(HiddenStates(states.path, (5, 2), 3).read(0, 5), values)
    states.remove()
    assert not states.path.exists()


@pytest.mark.parametrize("saving", [InTurn, Behind])
def test_jobs_are_done_in_turn(saving: Callable[[], Any]) -> None:
    done: list[int] = []
    worker = saving()
    for number in range(5):
        worker.do(lambda n=number: done.append(n))
    worker.finish()
    assert done == list(range(5))


def test_a_job_behind_is_not_waited_for_and_its_error_is_raised_later() -> None:
    go, worker = threading.Event(), Behind()

    def fail() -> None:
        assert go.wait(5)
        raise OSError("full")

    worker.do(fail)
    go.set()
    with pytest.raises(OSError, match="full"):
        worker.do(lambda: None)
    worker.finish()
