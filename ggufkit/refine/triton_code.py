"""What a GPU runs for one block of columns: a program has a tile of rows, and goes through its columns in turn.

Rows are independent, so programs know nothing of each other. Before each launch a matrix product has told the slope
of the block's columns (H D, or what GPTQ's earlier columns leave to be made up for); within the block a program adds
what its own columns change. Every value is float32, in the layout of `Grid`. Arguments that belong together come as
tuples:

    grid    level, d, dmin, scale, least
    work    matrix (columns, columns), difference (columns, rows), its parts for the next product, slope and change
            (columns of the block, rows)
    sizes   rows, columns, the block's first column, its columns, runs that share a super-scale
    form    the levels, or only the ends of a range without gaps; ends of the scale's and of the minimum's field, or
            nothing; the sign of offsets; whether there are any
"""

from __future__ import annotations

import triton
import triton.language as tl

ROWS = tl.constexpr(16)
"""Rows of a program."""
# Adding it leaves a small float32 rounded to the nearest integer, ties to the even one.
_ROUNDER = tl.constexpr(12582912.0)
_EXACT = tl.constexpr("ieee")


@triton.jit
def _whole(x):
    return (x + _ROUNDER) - _ROUNDER


@triton.jit
def _nearest(x, form: tl.constexpr):
    """The nearest level, as `Grid.nearest`."""
    levels: tl.constexpr = form[0]
    if len(levels) == 2:
        level = _whole(tl.minimum(tl.maximum(x, levels[0]), levels[1]))
    else:
        level = tl.zeros_like(x) + levels[0]
        for k in tl.static_range(len(levels) - 1):
            level += tl.where(x > (levels[k] + levels[k + 1]) / 2, levels[k + 1] - levels[k], 0)
    return level


@triton.jit
def _invert(x):
    return tl.where(x != 0, tl.div_rn(1.0, tl.where(x != 0, x, 1.0)), 0)


@triton.jit
def _half(x):
    return x.to(tl.float16).to(tl.float32)


@triton.jit
def _row(tile, i):
    """Row `i` of a tile (k, rows)."""
    here = tl.arange(0, tile.shape[0])[:, None] == i
    return tl.sum(tl.where(here, tile, 0), 0)


@triton.jit
def _places(columns, rows, n_rows):
    return columns.to(tl.int64)[:, None] * n_rows + rows[None, :]


@triton.jit
def _load(pointer, columns, rows, n_rows):
    """A tile (columns, rows); 0 beyond the last row."""
    return tl.load(pointer + _places(columns, rows, n_rows), mask=rows[None, :] < n_rows, other=0.0)


@triton.jit
def _store(pointer, columns, rows, n_rows, tile):
    tl.store(pointer + _places(columns, rows, n_rows), tile, mask=rows[None, :] < n_rows)


@triton.jit
def _square(matrix, down, across, n_columns):
    """A tile of H, (down, across)."""
    return tl.load(matrix + down.to(tl.int64)[:, None] * n_columns + across[None, :])


@triton.jit
def _of_rows(pointer, index, rows, n_rows):
    """Values of a run or a block for a tile of rows."""
    return tl.load(pointer + tl.cast(index, tl.int64) * n_rows + rows, mask=rows < n_rows, other=0.0)


@triton.jit
def _put(pointer, index, rows, n_rows, values):
    tl.store(pointer + tl.cast(index, tl.int64) * n_rows + rows, values, mask=rows < n_rows)


@triton.jit
def _note(work, columns, rows, n_rows, difference):
    """Keep new differences, and the parts of them that the next matrix product takes."""
    _, kept, parts, _, _ = work
    _store(kept, columns, rows, n_rows, difference)
    if parts.dtype.element_ty == tl.bfloat16:
        high = difference.to(tl.bfloat16)
        low = (difference - high.to(tl.float32)).to(tl.bfloat16)
        _store(parts, 3 * columns.to(tl.int64), rows, n_rows, high)
        _store(parts, 3 * columns.to(tl.int64) + 1, rows, n_rows, low)
        _store(parts, 3 * columns.to(tl.int64) + 2, rows, n_rows, high)


@triton.jit
def _change(work, sizes, here, rows, change):
    """Add to the differences of some columns from `here` on in the block."""
    n_rows, _, start, _, _ = sizes
    _, kept, _, _, noted = work
    k = here + tl.arange(0, change.shape[0])
    _note(work, start + k, rows, n_rows, _load(kept, start + k, rows, n_rows) + change)
    _store(noted, k, rows, n_rows, change)
    tl.debug_barrier()


@triton.jit
def _slope(work, sizes, here, until, rows, sub: tl.constexpr):
    """Of sub columns from `here` on in the block, with what its columns before `until` have changed."""
    n_rows, n_columns, start, _, _ = sizes
    matrix, _, _, met, noted = work
    k = tl.arange(0, sub)
    slope = _load(met, here + k, rows, n_rows)
    for done in range(0, until, sub):
        near = _square(matrix, start + here + k, start + done + k, n_columns)
        slope += tl.dot(near, _load(noted, done + k, rows, n_rows), input_precision=_EXACT)
    return slope


@triton.jit
def gptq(grid, work, sizes, given, sub: tl.constexpr, form: tl.constexpr):
    """Levels of a block of columns in the order of rounding.

    `work` has the factor's transpose for `matrix`, and errors for `difference`; `given` is the target, and the columns
    in order. sub is the size of a run.
    """
    level, d, dmin, scale, least = grid
    factor, _, _, _, noted = work
    target, order = given
    n_rows, n_columns, start, count, runs = sizes
    span: tl.constexpr = 32
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    k = tl.arange(0, span)
    for here in range(0, count, span):
        columns = tl.load(order + start + here + k)
        run = columns // sub
        offset = _load(dmin, run // runs, rows, n_rows) * _load(least, run, rows, n_rows)
        rest = _load(target, columns, rows, n_rows) - form[3] * offset
        rest -= _slope(work, sizes, here, here, rows, span)
        for i in range(span):
            column = tl.load(order + start + here + i)
            block = column // sub // runs
            step = _of_rows(d, block, rows, n_rows) * _of_rows(scale, column // sub, rows, n_rows)
            x = _row(rest, i)
            rounded = _nearest(x * _invert(step), form)
            at = (start + here + i).to(tl.int64) * n_columns + start + here
            error = tl.div_rn(x - rounded * step, tl.load(factor + at + i) + tl.zeros_like(x))
            # The factor's transpose has what column i means for those after it below its diagonal.
            below = tl.load(factor + (start + here + k).to(tl.int64) * n_columns + start + here + i)
            rest = tl.where(k[:, None] > i, rest - below[:, None] * error[None, :], rest)
            rest = tl.where(k[:, None] == i, error[None, :], rest)
            places = level + column.to(tl.int64) * n_rows + rows
            # A step of zero leaves no choice, and its level as it was.
            tl.store(places, rounded, mask=(rows < n_rows) & (step != 0))
        _note(work, start + here + k, rows, n_rows, rest)
        _store(noted, here + k, rows, n_rows, rest)
        tl.debug_barrier()


@triton.jit
def descend(grid, work, sizes, gained, sub: tl.constexpr, form: tl.constexpr):
    """Choose each level of a block anew with all others fixed; add to `gained` (rows,) by how much the error fell."""
    level, d, _, scale, _ = grid
    matrix = work[0]
    n_rows, n_columns, start, count, runs = sizes
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    k = tl.arange(0, sub)
    gain = _of_rows(gained, 0, rows, n_rows)
    for here in range(0, count, sub):
        run, columns = (start + here) // sub, start + here + k
        step = _of_rows(d, run // runs, rows, n_rows) * _of_rows(scale, run, rows, n_rows)
        slope = _slope(work, sizes, here, here, rows, sub)
        now = _load(level, columns, rows, n_rows)
        changed = tl.zeros_like(slope)
        for i in range(sub):
            near = matrix + (start + here + i).to(tl.int64) * n_columns + start + here
            bend = tl.load(near + i)
            # Columns from i on have not changed, so that the sum is over those before.
            mixed = tl.where(k[:, None] == i, slope, tl.load(near + k)[:, None] * changed)
            pull, old = tl.sum(mixed, 0), _row(now, i)
            new = _nearest(old - pull * _invert(step * bend), form)
            moved = (new - old) * step
            gain -= moved * (2 * pull + bend * moved)
            changed = tl.where(k[:, None] == i, moved[None, :], changed)
            now = tl.where(k[:, None] == i, new[None, :], now)
        _store(level, columns, rows, n_rows, now)
        _change(work, sizes, here, rows, changed)
    _put(gained, 0, rows, n_rows, gain)


@triton.jit
def round_one(values, form: tl.constexpr):
    """Round one value, told of as the other kernels are: what tells whether they run here."""
    tl.store(values[0], _nearest(tl.load(values[0]), form))
