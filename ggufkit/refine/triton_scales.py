"""What a GPU runs for the scales of one block of columns; arguments and layout as in `triton_code`."""

from __future__ import annotations

import triton
import triton.language as tl

from ggufkit.refine.triton_code import (
    _EXACT,
    ROWS,
    _change,
    _half,
    _invert,
    _load,
    _nearest,
    _of_rows,
    _put,
    _row,
    _slope,
    _square,
    _store,
    _whole,
)


@triton.jit
def _move_whole(value, slope, bend, field: tl.constexpr, form: tl.constexpr):
    """By how much an integer moves to the minimum of a parabola, as far as its field goes."""
    ends: tl.constexpr = form[field]
    best = value - tl.where(bend > 0, tl.div_rn(slope, tl.where(bend > 0, bend, 1.0)), 0)
    move = _whole(tl.minimum(tl.maximum(best, ends[0]), ends[1])) - value
    return tl.where(slope * move + bend * move * move / 2 < 0, move, 0)


@triton.jit
def _move_half(value, slope, bend):
    """By how much a float16 value moves to the minimum of a parabola."""
    best = _half(value - tl.where(bend > 0, tl.div_rn(slope, tl.where(bend > 0, bend, 1.0)), 0))
    move = best - value
    better = (slope * move + bend * move * move / 2 < 0) & (tl.abs(best) < float("inf"))
    return tl.where(better, move, 0)


@triton.jit
def refit_runs(grid, work, sizes, sub: tl.constexpr, form: tl.constexpr):
    """Move each run's scale, then its minimum, to the best integer."""
    level, d, dmin, scale, least = grid
    n_rows, n_columns, start, count, runs = sizes
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    k = tl.arange(0, sub)
    for here in range(0, count, sub):
        run, columns = (start + here) // sub, start + here + k
        near = _square(work[0], columns, columns, n_columns)
        slope = _slope(work, sizes, here, here, rows, sub)
        change = tl.zeros_like(slope)
        if len(form[1]) > 0:
            value = _of_rows(scale, run, rows, n_rows)
            unit = _of_rows(d, run // runs, rows, n_rows)[None, :] * _load(level, columns, rows, n_rows)
            pushed = tl.dot(near, unit, input_precision=_EXACT)
            move = _move_whole(value, tl.sum(slope * unit, 0), tl.sum(pushed * unit, 0), 1, form)
            _put(scale, run, rows, n_rows, value + move)
            change += unit * move[None, :]
            slope += pushed * move[None, :]
        if len(form[2]) > 0:
            value = _of_rows(least, run, rows, n_rows)
            worth = form[3] * _of_rows(dmin, run // runs, rows, n_rows)
            bend = worth * worth * tl.sum(tl.sum(near, 1), 0)
            move = _move_whole(value, tl.sum(slope, 0) * worth, bend, 2, form)
            _put(least, run, rows, n_rows, value + move)
            change += (move * worth)[None, :]
        _change(work, sizes, here, rows, change)


@triton.jit
def _units(grid, run, rows, sizes, sub: tl.constexpr, form: tl.constexpr):
    """What 1 of d is worth in a run's columns (sub, rows), and what 1 of dmin is worth (rows,)."""
    level, _, _, scale, least = grid
    n_rows = sizes[0]
    columns = run * sub + tl.arange(0, sub)
    of_d = _of_rows(scale, run, rows, n_rows)[None, :] * _load(level, columns, rows, n_rows)
    return of_d, form[3] * _of_rows(least, run, rows, n_rows)


@triton.jit
def _pushed(grid, matrix, place, sizes, sub: tl.constexpr, form: tl.constexpr):
    """H restricted to a block, times what d and dmin are worth in it, for the run and rows of `place`: (sub, rows) each."""
    run, rows = place
    n_columns, runs = sizes[1], sizes[4]
    k = tl.arange(0, sub)
    first = run // runs * runs
    by_d, by_dmin = tl.zeros((sub, ROWS), tl.float32), tl.zeros((sub, ROWS), tl.float32)
    for other in range(first, first + runs):
        of_d, of_dmin = _units(grid, other, rows, sizes, sub, form)
        near = _square(matrix, run * sub + k, other * sub + k, n_columns)
        by_d += tl.dot(near, of_d, input_precision=_EXACT)
        by_dmin += tl.sum(near, 1)[:, None] * of_dmin[None, :]
    return by_d, by_dmin


@triton.jit
def refit_blocks(grid, work, sizes, sub: tl.constexpr, form: tl.constexpr):
    """Move each block's d, then its dmin, to the best float16 value."""
    d, dmin = grid[1], grid[2]
    n_rows, _, start, count, runs = sizes
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    for here in range(0, count, sub * runs):
        first = (start + here) // sub
        zero = tl.zeros((ROWS,), tl.float32)
        slope_d, slope_m, bend_d, bend_m, mixed = zero, zero, zero, zero, zero
        for run in range(first, first + runs):
            slope = _slope(work, sizes, run * sub - start, here, rows, sub)
            of_d, of_dmin = _units(grid, run, rows, sizes, sub, form)
            by_d, by_dmin = _pushed(grid, work[0], (run, rows), sizes, sub, form)
            slope_d += tl.sum(of_d * slope, 0)
            slope_m += of_dmin * tl.sum(slope, 0)
            bend_d += tl.sum(of_d * by_d, 0)
            bend_m += of_dmin * tl.sum(by_dmin, 0)
            mixed += of_dmin * tl.sum(by_d, 0)
        old_d, old_m = _of_rows(d, first // runs, rows, n_rows), _of_rows(dmin, first // runs, rows, n_rows)
        move_d = _move_half(old_d, slope_d, bend_d)
        move_m = tl.zeros_like(move_d)
        _put(d, first // runs, rows, n_rows, old_d + move_d)
        if form[4]:
            move_m = _move_half(old_m, slope_m + move_d * mixed, bend_m)
            _put(dmin, first // runs, rows, n_rows, old_m + move_m)
        for run in range(first, first + runs):
            of_d, of_dmin = _units(grid, run, rows, sizes, sub, form)
            change = of_d * move_d[None, :] + (of_dmin * move_m)[None, :]
            _change(work, sizes, run * sub - start, rows, change)


@triton.jit
def _neighbour(value, n, field: tl.constexpr, form: tl.constexpr):
    ends: tl.constexpr = form[field]
    return tl.minimum(tl.maximum(value + n, ends[0]), ends[1])


@triton.jit
def _choice(present, n, form: tl.constexpr):
    """The n-th setting to try of (d, dmin, scale, least), each (rows,)."""
    d, dmin, scale, least = present
    if len(form[1]) > 0:
        if len(form[2]) > 0:
            scale = _neighbour(scale, n // 3 - 1, 1, form)
            least = _neighbour(least, n % 3 - 1, 2, form)
        else:
            scale = _neighbour(scale, n - 1, 1, form)
    else:
        tries: tl.constexpr = form[5]
        place = n
        if form[4]:
            place = n // 3
            dmin = _half(dmin + (n % 3 - 1) * tries[2] * d)
        d = _half(d * tl.where(place == 0, tries[0], tl.where(place == 1, 1.0, tries[1])))
    return d, dmin, scale, least


@triton.jit
def _round_run(rest, step, factor, sub: tl.constexpr, form: tl.constexpr):
    """GPTQ within one run: levels (sub, rows) for `rest`."""
    k = tl.arange(0, sub)
    level, inverse = tl.zeros_like(rest), _invert(step)
    for i in range(sub):
        x = _row(rest, i)
        rounded = _nearest(x * inverse, form)
        upper = factor + i * sub
        error = tl.div_rn(x - rounded * step, tl.load(upper + i) + tl.zeros_like(x))
        rest = tl.where(k[:, None] > i, rest - tl.load(upper + k)[:, None] * error[None, :], rest)
        level = tl.where(k[:, None] == i, rounded[None, :], level)
    return level


@triton.jit
def _missed(near, weights, ideal):
    off = weights - ideal
    return tl.sum(off * tl.dot(near, off, input_precision=_EXACT), 0)


@triton.jit
def _weights(setting, level, form: tl.constexpr):
    d, dmin, scale, least = setting
    return (d * scale)[None, :] * level + (form[3] * (dmin * least))[None, :]


@triton.jit
def _best(present, tiles, factor, sub: tl.constexpr, form: tl.constexpr):
    """The best of `present` with its levels and of all settings near it: levels, d, dmin, scale and least.

    `tiles` are the levels, the weights that a run should have, and H restricted to it.
    """
    level, ideal, near = tiles
    d, dmin, scale, least = present
    n_tries: tl.constexpr = 9 if (len(form[1]) > 0 and len(form[2]) > 0) or (len(form[1]) == 0 and form[4]) else 3
    fewest = _missed(near, _weights(present, level, form), ideal)
    for n in range(n_tries):
        new = _choice(present, n, form)
        rest = ideal - (form[3] * (new[1] * new[3]))[None, :]
        tried = _round_run(rest, new[0] * new[2], factor, sub, form)
        error = _missed(near, _weights(new, tried, form), ideal)
        better = error < fewest
        fewest = tl.where(better, error, fewest)
        level = tl.where(better[None, :], tried, level)
        d, dmin = tl.where(better, new[0], d), tl.where(better, new[1], dmin)
        scale, least = tl.where(better, new[2], scale), tl.where(better, new[3], least)
    return level, (d, dmin, scale, least)


@triton.jit
def _setting(grid, run, block, rows, n_rows):
    """The present d, dmin, scale and least of a run."""
    d, dmin = _of_rows(grid[1], block, rows, n_rows), _of_rows(grid[2], block, rows, n_rows)
    return d, dmin, _of_rows(grid[3], run, rows, n_rows), _of_rows(grid[4], run, rows, n_rows)


@triton.jit
def search(grid, work, sizes, given, sub: tl.constexpr, form: tl.constexpr):
    """Try steps and offsets near the present ones run by run, levels rounded anew for each; keep the best.

    `given` is H restricted to each run, its inverse, and that one's Cholesky factor, (runs, sub, sub); `form` ends with
    what is tried where a run has no integers: smaller and larger factors of d, and a share of it for dmin.
    """
    n_rows, _, start, count, runs = sizes
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    k = tl.arange(0, sub)
    for here in range(0, count, sub):
        run, columns = (start + here) // sub, start + here + k
        square = run * sub * sub + k[:, None] * sub + k[None, :]
        present = _setting(grid, run, run // runs, rows, n_rows)
        level = _load(grid[0], columns, rows, n_rows)
        weights = _weights(present, level, form)
        slope = _slope(work, sizes, here, here, rows, sub)
        ideal = weights - tl.dot(tl.load(given[1] + square), slope, input_precision=_EXACT)
        tiles = (level, ideal, tl.load(given[0] + square))
        level, new = _best(present, tiles, given[2] + run * sub * sub, sub, form)
        _store(grid[0], columns, rows, n_rows, level)
        _put(grid[1], run // runs, rows, n_rows, new[0])
        _put(grid[2], run // runs, rows, n_rows, new[1])
        _put(grid[3], run, rows, n_rows, new[2])
        _put(grid[4], run, rows, n_rows, new[3])
        _change(work, sizes, here, rows, _weights(new, level, form) - weights)
