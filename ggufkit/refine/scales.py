"""Steps and offsets for given levels, and both at once, within what the format can hold."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from ggufkit.refine.codecs import Codec
from ggufkit.refine.curvature import curvatures, metrics_of
from ggufkit.refine.fields import Field
from ggufkit.refine.grid import Grid
from ggufkit.refine.rounding import make_up

# What a search tries around a run's integers, or around a block's own step where it has no integers.
_NEIGHBOURS = (-1, 0, 1)
FACTORS = (0.97, 1.0, 1.03)
SHIFT = 0.15  # of a step, for the offsets of such a block


def refit(grid: Grid, target: torch.Tensor, hessian: torch.Tensor) -> None:
    """Move scales, minima and super-scales one after the other to their best values, the levels fixed."""
    difference = grid.weights() - target
    for run in range(grid.n_columns // grid.codec.sub):
        _refit_run(grid, difference, hessian, run)
    for block in range(len(grid.d)):
        _refit_block(grid, difference, hessian, block)


def _refit_run(grid: Grid, difference: torch.Tensor, hessian: torch.Tensor, run: int) -> None:
    codec = grid.codec
    columns, (block, place) = _span(run, codec.sub), divmod(run, codec.block // codec.sub)
    near = hessian[columns, columns]
    slope = hessian[columns] @ difference if codec.scale or codec.least else None
    if codec.scale and slope is not None:
        unit = grid.d[block] * grid.level[columns]
        pushed = near @ unit
        move = _move(grid.scale[block, place], (slope * unit).sum(0), (pushed * unit).sum(0), codec.scale)
        difference[columns].addcmul_(unit, move)
        slope.addcmul_(pushed, move)
    if codec.least and slope is not None:
        unit = codec.sign * grid.dmin[block, 0]
        move = _move(grid.least[block, place], slope.sum(0) * unit, unit * unit * near.sum(), codec.least)
        difference[columns] += move * unit


def _move(value: torch.Tensor, slope: torch.Tensor, bend: torch.Tensor, field: Field) -> torch.Tensor:
    """Move values of a field to the minimum of a parabola, as near as they can be; returns by how much."""
    best = _nearest(value - torch.where(bend > 0, slope / bend, 0), field)
    move = best - value
    move = torch.where(slope * move + bend * move * move / 2 < 0, move, 0)
    value += move
    return move


def _nearest(x: torch.Tensor, field: Field) -> torch.Tensor:
    """The nearest values that a field has; may overwrite `x`."""
    if field.is_dense:
        return x.round_().clamp_(field.sorted_values[0], field.sorted_values[-1])
    values = torch.tensor(field.sorted_values, device=x.device)
    return values[torch.bucketize(x, (values[1:] + values[:-1]) / 2)]


def _refit_block(grid: Grid, difference: torch.Tensor, hessian: torch.Tensor, block: int) -> None:
    codec = grid.codec
    columns = _span(block, codec.block)
    repeats = codec.block // grid.scale.shape[1]
    if codec.d is not None:
        of_d = grid.scale[block].repeat_interleave(repeats, 0) * grid.level[columns]
        _half(grid.d[block, 0], of_d, difference, hessian, columns)
    if codec.dmin is not None:
        of_dmin = codec.sign * grid.least[block].repeat_interleave(repeats, 0)
        _half(grid.dmin[block, 0], of_dmin, difference, hessian, columns)


def _half(
    value: torch.Tensor, unit: torch.Tensor, difference: torch.Tensor, hessian: torch.Tensor, columns: slice
) -> None:
    """Move float16 values, each worth `unit` (columns, rows) per 1, to their minimum."""
    slope = (unit * (hessian[columns] @ difference)).sum(0)
    bend = (unit * (hessian[columns, columns] @ unit)).sum(0)
    best = _as_half(value - torch.where(bend > 0, slope / bend, 0))
    move = best - value
    better = (slope * move + bend * move * move / 2 < 0) & best.isfinite()
    move = torch.where(better, move, 0)
    value += move
    difference[columns].addcmul_(unit, move)


@dataclass(frozen=True)
class _Choice:
    """One setting of a run for all rows: each (rows,)."""

    d: torch.Tensor
    dmin: torch.Tensor
    scale: torch.Tensor
    least: torch.Tensor


def search(grid: Grid, target: torch.Tensor, hessian: torch.Tensor) -> None:
    """Run by run, try steps and offsets near the present ones with levels rounded anew for each; keep the best."""
    codec = grid.codec
    difference = grid.weights() - target
    near, inverse, factors = curvatures(hessian, codec.sub)
    for run in range(grid.n_columns // codec.sub):
        columns = _span(run, codec.sub)
        here = grid.weights_of(run)
        ideal = here - inverse[run] @ (hessian[columns] @ difference)
        _search_run(grid, run, here, ideal, near[run], factors[run])
        difference[columns] += grid.weights_of(run) - here


def _search_run(
    grid: Grid, run: int, here: torch.Tensor, ideal: torch.Tensor, near: torch.Tensor, factor: torch.Tensor
) -> None:
    """Keep the setting that comes nearest to `ideal`, where H restricted to the run has its minimum."""
    codec = grid.codec
    block, place = divmod(run, codec.block // codec.sub)
    present = _present(grid, block, place)
    choices = list(_neighbours(codec, present))
    steps = torch.cat([c.d * c.scale for c in choices])
    offsets = torch.cat([codec.sign * c.dmin * c.least for c in choices])
    level = _round_run(grid, ideal.repeat(1, len(choices)) - offsets, steps, factor)
    off = steps * level + offsets - ideal.repeat(1, len(choices))
    errors = (off * (near @ off)).sum(0).view(len(choices), -1)
    least, best = errors.min(0)
    off = here - ideal
    better = least < (off * (near @ off)).sum(0)
    columns = _span(run, codec.sub)
    every = torch.arange(grid.n_rows, device=best.device)
    chosen = level.view(codec.sub, len(choices), -1)[:, best, every]
    grid.level[columns] = torch.where(better, chosen, grid.level[columns])
    for name, kept in (
        ("d", (block, 0)),
        ("dmin", (block, 0)),
        ("scale", (block, place)),
        ("least", (block, place)),
    ):
        values = torch.stack([getattr(c, name) for c in choices])[best, every]
        stored = getattr(grid, name)[kept]
        stored.copy_(torch.where(better, values, stored))


def _round_run(grid: Grid, rest: torch.Tensor, steps: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """GPTQ within one run: levels for `rest` (columns, rows), which is used up."""
    inverse, unit = torch.where(steps != 0, steps.reciprocal(), 0), grid.codec.unit
    level, metrics = torch.empty_like(rest), metrics_of(factor, unit)
    for i in range(0, len(rest), unit):
        here = slice(i, i + unit)
        level[here] = grid.choose(rest[here] * inverse, metrics[i // unit])
        make_up(rest, level[here], steps.expand(unit, -1), factor, i)
    return level


def _present(grid: Grid, block: int, place: int) -> _Choice:
    own = (grid.scale[block, place], grid.least[block, place])
    return _Choice(grid.d[block, 0], grid.dmin[block, 0], *own)


def _neighbours(codec: Codec, present: _Choice) -> Iterator[_Choice]:
    """Settings to try: neighbouring integers where the run has some, else other float16 values for its block."""
    if codec.scale is None:
        yield from _scaled(codec, present)
        return
    for scale in _near(present.scale, codec.scale):
        for least in _near(present.least, codec.least) if codec.least else [present.least]:
            yield _Choice(present.d, present.dmin, scale, least)


def _near(value: torch.Tensor, field: Field) -> list[torch.Tensor]:
    values = torch.tensor(field.sorted_values, device=value.device)
    place = torch.bucketize(value, values)
    return [values[(place + n).clamp_(0, len(values) - 1)] for n in _NEIGHBOURS]


def _scaled(codec: Codec, present: _Choice) -> Iterator[_Choice]:
    shifts = (0,) if codec.dmin is None else (-SHIFT, 0, SHIFT)
    for factor in FACTORS:
        for shift in shifts:
            d, dmin = _as_half(present.d * factor), _as_half(present.dmin + shift * present.d)
            yield _Choice(d, dmin, present.scale, present.least)


def _as_half(x: torch.Tensor) -> torch.Tensor:
    return x.half().float()


def _span(index: int, size: int) -> slice:
    return slice(index * size, (index + 1) * size)
