"""Levels for given steps: GPTQ, then coordinate descent. Rows are independent; all are done side by side.

What is minimised over the levels is tr(D H Dᵀ) for D = weights - target, the squared error of the output when
H = E[x xᵀ]. Matrices are (columns, rows) as in `Grid`.
"""

from __future__ import annotations

import torch

from ggufkit.refine.grid import Grid

# Columns between two updates of all columns beyond; within, an update reaches only to the end of the block.
_GPTQ_BLOCK, _DESCENT_BLOCK = 128, 64


def error(grid: Grid, target: torch.Tensor, hessian: torch.Tensor) -> torch.Tensor:
    """tr(D H Dᵀ) row by row, (rows,)."""
    difference = grid.weights() - target
    return (difference * (hessian @ difference)).sum(0)


def gptq(grid: Grid, target: torch.Tensor, factor: torch.Tensor, order: torch.Tensor | None = None) -> None:
    """Set all levels, column by column; each column's error is made up for in the columns after it.

    Args:
        factor: upper triangular U with Uᵀ U = H⁻¹, for the columns in the order in which they are rounded.
        order: the columns in that order; None for their own.
    """
    columns = torch.arange(grid.n_columns, device=target.device) if order is None else order
    run = columns // grid.codec.sub
    rest = target[columns] - grid.offsets()[run]
    steps = grid.steps()[run]
    inverse, level = _invert(steps), torch.empty_like(rest)
    for start in range(0, len(columns), _GPTQ_BLOCK):
        block = slice(start, start + _GPTQ_BLOCK)
        upper, rows = factor[block, block], rest[block]
        for i in range(len(rows)):
            rounded = grid.nearest(rows[i] * inverse[start + i])
            level[start + i] = rounded
            rows[i].addcmul_(rounded, steps[start + i], value=-1).div_(upper[i, i])
            rows[i + 1 :].addr_(upper[i, i + 1 :], rows[i], alpha=-1)
        rest[start + len(rows) :].addmm_(factor[block, start + len(rows) :].T, rows, alpha=-1)
    # A step of zero leaves no choice, and its level as it was.
    grid.level[columns] = torch.where(steps != 0, level, grid.level[columns])


def descend(
    grid: Grid, target: torch.Tensor, hessian: torch.Tensor, passes: int, least_gain: float = 0.005
) -> None:
    """Choose each level anew with all others fixed; stop when a pass gains less than `least_gain` of the error."""
    difference = grid.weights() - target
    steps = grid.steps().repeat_interleave(grid.codec.sub, 0)
    pull = _invert(steps * hessian.diagonal()[:, None])
    left = float((difference * (hessian @ difference)).sum())
    for _ in range(passes):
        gained = torch.zeros((), device=target.device)
        for start in range(0, grid.n_columns, _DESCENT_BLOCK):
            block = slice(start, start + _DESCENT_BLOCK)
            gained += _descend_block(grid, difference, hessian, steps, pull, block)
        left -= float(gained)
        if float(gained) <= least_gain * left:
            return


def _descend_block(
    grid: Grid,
    difference: torch.Tensor,
    hessian: torch.Tensor,
    steps: torch.Tensor,
    pull: torch.Tensor,
    block: slice,
) -> torch.Tensor:
    """Do some columns; returns by how much the error fell."""
    slope = hessian[block] @ difference
    near, level = hessian[block, block], grid.level[block]
    old, steps, pull = level.clone(), steps[block], pull[block]
    for i in range(len(level)):
        moved = grid.nearest(torch.addcmul(old[i], slope[i], pull[i], value=-1))
        level[i] = moved
        slope[i + 1 :].addr_(near[i, i + 1 :], moved.sub_(old[i]).mul_(steps[i]))
    change = (level - old).mul_(steps)
    difference[block] += change
    # Each slope is still what it was when its column moved.
    return -(change * slope.mul_(2).addcmul_(near.diagonal()[:, None], change)).sum()


def _invert(x: torch.Tensor) -> torch.Tensor:
    """1 / x, and 0 where x is 0."""
    return torch.where(x != 0, x.reciprocal(), 0)
