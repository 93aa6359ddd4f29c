"""Refinement on a GPU: its kernels do what the reference does, and hidden states are saved.

Kernels run where there are Triton and a GPU, or with TRITON_INTERPRET=1 on the CPU.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ggufkit.layers import KeptStates, Room
from ggufkit.refine import kernels, rounding, solve
from ggufkit.refine.grid import Grid
from ggufkit.refine.kernels import REFERENCE, Kernels
from tests.unit.test_refine_rounding import EVEN, some_grid

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = torch.device("cuda" if torch.cuda.is_available() and not INTERPRETED else "cpu")
# Rows that end within a program's tile; two launches of columns, where that is not too slow.
ROWS, COLUMNS = 41, 256 if INTERPRETED else 512

runs_kernels = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None or not (INTERPRETED or torch.cuda.is_available()),
    reason="needs Triton, and a GPU or TRITON_INTERPRET=1",
)
on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def problem(name: str) -> tuple[Grid, torch.Tensor, torch.Tensor]:
    """A grid, weights near what it can hold, and correlated second moments."""
    torch.manual_seed(1)
    grid = some_grid(name, rows=ROWS, columns=COLUMNS)._map(lambda t: t.to(DEVICE))
    steps = grid.steps().repeat_interleave(grid.codec.sub, 0)
    gap = (grid.codec.grid[-1] - grid.codec.grid[0]) / (len(grid.codec.grid) - 1)
    target = grid.weights() + (torch.rand(grid.level.shape) - 0.5).to(DEVICE) * gap * steps
    mixing = torch.randn(COLUMNS, COLUMNS // 2).to(DEVICE) / 16
    return grid, target, mixing @ mixing.T + 0.05 * torch.eye(COLUMNS, device=DEVICE)


def triton_kernels() -> Kernels:
    from ggufkit.refine.triton_kernels import TritonKernels

    return TritonKernels()


def gptq(do: Kernels, grid: Grid, target: torch.Tensor, hessian: torch.Tensor) -> None:
    do.gptq(grid, target, solve.inverse_factor(hessian, "x"))


def gptq_ordered(do: Kernels, grid: Grid, target: torch.Tensor, hessian: torch.Tensor) -> None:
    order = hessian.diagonal().argsort()
    do.gptq(grid, target, solve.inverse_factor(hessian[order][:, order], "x"), order)


def descend(do: Kernels, grid: Grid, target: torch.Tensor, hessian: torch.Tensor) -> None:
    do.descend(grid, target, hessian, 2)


def refit(do: Kernels, grid: Grid, target: torch.Tensor, hessian: torch.Tensor) -> None:
    do.refit(grid, target, hessian)


def search(do: Kernels, grid: Grid, target: torch.Tensor, hessian: torch.Tensor) -> None:
    do.search(grid, target, hessian)


@runs_kernels
@pytest.mark.parametrize("step", [gptq, gptq_ordered, descend, refit, search])
@pytest.mark.parametrize("name", EVEN)
def test_kernels_do_what_the_reference_does(name: str, step: Callable[..., None]) -> None:
    grid, target, hessian = problem(name)
    grid.scale[:, 0, 3] *= grid.codec.scale is None  # a step of zero
    wanted, made = grid.rows(0, ROWS), grid.rows(0, ROWS)
    step(REFERENCE, wanted, target, hessian)
    step(triton_kernels(), made, target, hessian)
    best, reached = (rounding.error(g, target, hessian) for g in (wanted, made))
    assert float(reached.sum()) == pytest.approx(float(best.sum()), rel=1e-3)
    differs = float((made.level != wanted.level).float().mean())
    assert differs < 0.01, "but for a sum's rounding, levels are the same"
    assert torch.allclose(triton_kernels().error(made, target, hessian), reached, rtol=1e-3)


@on_gpu
@runs_kernels
def test_a_whole_search_reaches_what_the_reference_reaches(monkeypatch: pytest.MonkeyPatch) -> None:
    grid, target, hessian = problem("Q4_K")
    made = solve.solve(grid, target, hessian, "x")
    monkeypatch.setattr(kernels, "of", lambda _: REFERENCE)
    wanted = solve.solve(grid, target, hessian, "x")
    best, reached = (float(rounding.error(g, target, hessian).sum()) for g in (wanted, made))
    assert reached == pytest.approx(best, rel=1e-3)


@on_gpu
def test_saved_hidden_states_are_there_for_a_later_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ggufkit.layers.hidden._SAVED_AT_ONCE", 2)
    values, states = torch.randn(5, 2, 3), KeptStates(tmp_path / "a", (5, 2), 3, Room(DEVICE, 0))
    states.write(0, values)
    states.save()
    assert torch.equal(KeptStates(tmp_path / "a", (5, 2), 3, Room(DEVICE, 0)).read(0, 5), values)
