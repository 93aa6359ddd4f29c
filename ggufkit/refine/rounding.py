"""Levels for given steps: GPTQ, then coordinate descent. Rows are independent; all are done side by side.

What is minimised over the levels is tr(D H Dᵀ) for D = weights - target, the squared error of the output when
H = E[x xᵀ]. Matrices are (columns, rows) as in `Grid`.
"""

from __future__ import annotations

import torch

from ggufkit.refine.curvature import curvatures, metrics_of
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
    run, unit = columns // grid.codec.sub, grid.codec.unit
    rest = target[columns] - grid.offsets()[run]
    steps = grid.steps()[run]
    inverse, level, metrics = _invert(steps), torch.empty_like(rest), metrics_of(factor, unit)
    for start in range(0, len(columns), _GPTQ_BLOCK):
        block = slice(start, start + _GPTQ_BLOCK)
        upper, rows = factor[block, block], rest[block]
        for i in range(0, len(rows), unit):
            here = slice(start + i, start + i + unit)
            level[here] = grid.choose(rows[i : i + unit] * inverse[here], metrics[(start + i) // unit])
            make_up(rows, level[here], steps[here], upper, i)
        rest[start + len(rows) :].addmm_(factor[block, start + len(rows) :].T, rows, alpha=-1)
    # A step of zero leaves no choice, and its level as it was.
    grid.level[columns] = torch.where(steps != 0, level, grid.level[columns])


def make_up(rest: torch.Tensor, level: torch.Tensor, steps: torch.Tensor, upper: torch.Tensor, first: int) -> None:
    """What is left over of the columns after `first`, some of which got their levels; of these, their errors."""
    for i in range(first, first + len(level)):
        rest[i].addcmul_(level[i - first], steps[i - first], value=-1).div_(upper[i, i])
        rest[i + 1 :].addr_(upper[i, i + 1 :], rest[i], alpha=-1)


def descend(
    grid: Grid, target: torch.Tensor, hessian: torch.Tensor, passes: int, least_gain: float = 0.005
) -> None:
    """Choose each level anew with all others fixed; stop when a pass gains less than `least_gain` of the error."""
    difference = grid.weights() - target
    steps = grid.steps().repeat_interleave(grid.codec.sub, 0)
    descend_block = _descend_block if grid.codec.unit == 1 else _descend_units
    left = float((difference * (hessian @ difference)).sum())
    for _ in range(passes):
        gained = torch.zeros((), device=target.device)
        for start in range(0, grid.n_columns, _DESCENT_BLOCK):
            block = slice(start, start + _DESCENT_BLOCK)
            gained += descend_block(grid, difference, hessian, steps, block)
        left -= float(gained)
        if float(gained) <= least_gain * left:
            return


def _descend_block(
    grid: Grid, difference: torch.Tensor, hessian: torch.Tensor, steps: torch.Tensor, block: slice
) -> torch.Tensor:
    """Do some columns; returns by how much the error fell."""
    slope = hessian[block] @ difference
    near, level, steps = hessian[block, block], grid.level[block], steps[block]
    old, pull = level.clone(), _invert(steps * near.diagonal()[:, None])
    for i in range(len(level)):
        moved = grid.nearest(torch.addcmul(old[i], slope[i], pull[i], value=-1))
        level[i] = moved
        slope[i + 1 :].addr_(near[i, i + 1 :], moved.sub_(old[i]).mul_(steps[i]))
    change = (level - old).mul_(steps)
    difference[block] += change
    # Each slope is still what it was when its column moved.
    return -(change * slope.mul_(2).addcmul_(near.diagonal()[:, None], change)).sum()


def _descend_units(
    grid: Grid, difference: torch.Tensor, hessian: torch.Tensor, steps: torch.Tensor, block: slice
) -> torch.Tensor:
    """As `_descend_block`, where the levels of a unit are chosen together, and stay where nearer ones are not found."""
    slope, near, unit = hessian[block] @ difference, hessian[block, block], grid.codec.unit
    _, inverses, _ = curvatures(near, unit)
    changes, gained = torch.zeros_like(slope), torch.zeros((), device=slope.device)
    for number, i in enumerate(range(0, len(slope), unit)):
        here = slice(i, i + unit)
        metric, level, step = near[here, here], grid.level[block][here], steps[block][here]
        moved = grid.choose(level - inverses[number] @ slope[here] * _invert(step), metric)
        change = (moved - level) * step
        added = (change * (2 * slope[here] + metric @ change)).sum(0)
        nearer = added < 0
        gained -= torch.where(nearer, added, 0).sum()
        level.copy_(torch.where(nearer, moved, level))
        changes[here] = torch.where(nearer, change, 0)
        slope[i + unit :].addmm_(near[i + unit :, here], changes[here])
    difference[block] += changes
    return gained


def _invert(x: torch.Tensor) -> torch.Tensor:
    """1 / x, and 0 where x is 0."""
    return torch.where(x != 0, x.reciprocal(), 0)
