"""GPTQ, coordinate descent and scales: each lowers what it says it lowers, within what the format holds."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ggufkit.core.errors import InputError
from ggufkit.refine.codecs import CODECS, unpack
from ggufkit.refine.grid import Grid, join, read_grid, write_grid
from ggufkit.refine.rounding import descend, error, gptq
from ggufkit.refine.scales import refit, search
from ggufkit.refine.solve import correction, damped, inverse_factor, solve

NAMES = sorted(CODECS)
EVEN = [name for name in NAMES if CODECS[name].is_even]
ROWS, COLUMNS = 12, 256


def some_grid(name: str, seed: int = 0, rows: int = ROWS, columns: int = COLUMNS) -> Grid:
    """Random levels and scales with steps of about 0.1."""
    codec, rng = CODECS[name], np.random.default_rng(seed)
    raw = rng.integers(0, 256, (rows, columns // codec.block, codec.size), dtype=np.uint8)
    most = max(abs(v) for v in codec.scale.values) if codec.scale else 1
    if codec.d is not None:
        raw[..., codec.d : codec.d + 2] = np.array([0.1 / most], np.float16).view(np.uint8)
    elif codec.scale:
        codes = codec.scale.codes_of(np.array(codec.scale.sorted_values, np.float32))
        near = codes[np.searchsorted(codec.scale.sorted_values, [0.05, 0.1])]
        raw[..., : codec.scale.n_elements] = rng.choice(near, (*raw.shape[:-1], codec.scale.n_elements))
    if codec.dmin is not None:
        raw[..., codec.dmin : codec.dmin + 2] = np.array([0.2 / most], np.float16).view(np.uint8)
    return read_grid(codec, raw.reshape(rows, -1))


def some_problem(grid: Grid, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights near what the grid can hold, and correlated second moments."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(grid.level.shape, generator=generator) - 0.5
    gap = (grid.codec.grid[-1] - grid.codec.grid[0]) / (len(grid.codec.grid) - 1)
    steps = gap * grid.steps().repeat_interleave(grid.codec.sub, 0)
    mixing = torch.randn(COLUMNS, COLUMNS // 2, generator=generator) / 16
    hessian = mixing @ mixing.T + 0.05 * torch.eye(COLUMNS)
    return grid.weights() + noise * steps, hessian


def nearest(grid: Grid, target: torch.Tensor) -> Grid:
    """Every weight rounded by itself."""
    made, unit = grid.rows(0, grid.n_rows), grid.codec.unit
    steps, offsets = (t.repeat_interleave(grid.codec.sub, 0) for t in (grid.steps(), grid.offsets()))
    x = torch.where(steps != 0, (target - offsets) / steps, grid.level)
    plain = torch.cat([grid.choose(part.clone(), torch.eye(unit)) for part in x.view(-1, unit, x.shape[1])])
    made.level.copy_(torch.where(steps != 0, plain, grid.level))
    return made


@pytest.mark.parametrize("name", NAMES)
def test_a_grid_is_its_blocks(name: str) -> None:
    grid = some_grid(name)
    raw = write_grid(grid)
    again = read_grid(grid.codec, raw)
    assert np.array_equal(write_grid(again), raw)
    assert np.array_equal(again.weights().T.numpy().reshape(-1), unpack(grid.codec, raw).weights().reshape(-1))
    for run in range(COLUMNS // grid.codec.sub):
        columns = slice(run * grid.codec.sub, (run + 1) * grid.codec.sub)
        assert torch.equal(again.weights_of(run), again.weights()[columns])
    halves = [grid.rows(0, 5), grid.rows(5, ROWS)]
    assert np.array_equal(write_grid(join(halves)), raw)


@pytest.mark.parametrize("name", NAMES)
def test_each_step_lowers_the_error_and_stays_in_the_format(name: str) -> None:
    grid = some_grid(name)
    target, hessian = some_problem(grid)
    plain = nearest(grid, target)
    last = error(plain, target, hessian)
    made = plain.rows(0, ROWS)
    gptq(made, target, inverse_factor(damped(hessian, 0.01, "x"), "x"))
    now = error(made, target, hessian)
    assert now.sum() < last.sum()
    descend(made, target, hessian, 3)
    for change in (refit, search):
        last = error(made, target, hessian)
        assert (last <= now * 1.0001).all()
        change(made, target, hessian)
        now = error(made, target, hessian)
        assert (now <= last * 1.0001).all()
    assert torch.isin(made.level, torch.tensor(grid.codec.grid)).all()
    assert torch.equal(read_grid(grid.codec, write_grid(made)).weights(), made.weights())


def test_gptq_is_exact_for_two_columns_that_cancel() -> None:
    grid = some_grid("Q4_0", rows=1, columns=32)
    grid.d.fill_(1)
    target = torch.zeros(32, 1)
    target[:2] = 0.4
    hessian = torch.eye(32)
    hessian[0, 1] = hessian[1, 0] = 0.99
    gptq(grid, target, inverse_factor(hessian, "x"))
    # Rounded singly both would be 0, and the errors of 0.4 would add up.
    assert sorted(grid.level[:2, 0].tolist()) == [0.0, 1.0]


@given(st.integers(0, 1000))
@settings(max_examples=20)
def test_descent_ends_where_no_single_move_helps(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    grid = some_grid("Q2_K", seed, rows=2)
    target, hessian = some_problem(grid, seed)
    descend(grid, target, hessian, 200, least_gain=0.0)
    base = error(grid, target, hessian)
    for column, move in itertools.product(torch.randint(COLUMNS, (20,), generator=generator).tolist(), (-1, 1)):
        tried = grid.rows(0, 2)
        tried.level[column] = (tried.level[column] + move).clamp_(0, 3)
        assert (error(tried, target, hessian) >= base * 0.9999).all()


@pytest.mark.parametrize("order", [True, False])
def test_the_order_of_columns_keeps_their_places(order: bool) -> None:
    grid = some_grid("Q4_K")
    exact = grid.weights()
    _, hessian = some_problem(grid)
    columns = torch.randperm(COLUMNS, generator=torch.Generator().manual_seed(0)) if order else None
    permuted = hessian if columns is None else hessian[columns][:, columns]
    made = grid.rows(0, ROWS)
    made.level.zero_()
    gptq(made, exact, inverse_factor(permuted, "x"), columns)
    assert torch.allclose(made.weights(), exact, atol=1e-5)


@pytest.mark.parametrize("name", ["Q3_K", "NVFP4", "IQ2_XXS", "IQ3_XXS", "IQ3_S"])
def test_solving_leaves_its_input_alone_and_beats_rounding(name: str) -> None:
    grid = some_grid(name)
    target, hessian = some_problem(grid)
    before = write_grid(grid)
    solved = solve(grid, target, hessian, "x")
    assert np.array_equal(write_grid(grid), before)
    assert error(solved, target, hessian).sum() < 0.6 * error(nearest(grid, target), target, hessian).sum()


def test_dead_columns_and_zero_steps_do_no_harm() -> None:
    grid = some_grid("Q4_K")
    grid.scale[0, 2] = 0
    kept = grid.level[64:96].clone()
    target, hessian = some_problem(grid)
    hessian[:32] = 0
    hessian[:, :32] = 0
    solved = solve(grid, target, hessian, "x")
    assert solved.weights().isfinite().all()
    untouched = solved.scale[0, 2] == 0
    assert torch.equal(solved.level[64:96][:, untouched], kept[:, untouched])


def test_the_factor_is_that_of_the_inverse() -> None:
    _, hessian = some_problem(some_grid("Q4_0"))
    factor = inverse_factor(hessian, "x")
    assert torch.equal(factor, factor.triu())
    assert torch.allclose(factor.T @ factor @ hessian, torch.eye(COLUMNS), atol=1e-3)


def test_the_correction_recovers_what_was_lost_on_the_way() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(4000, 32, generator=generator)
    lossy = inputs @ (torch.eye(32) + 0.1 * torch.randn(32, 32, generator=generator))
    weights = torch.randn(32, 8, generator=generator)
    wanted = lossy.T @ (inputs @ weights) / 4000
    step = correction(weights, lossy.T @ lossy / 4000, wanted, "x")
    before, after = ((lossy @ w - inputs @ weights).square().mean() for w in (weights, weights + step))
    assert after < 1e-3 * before


def test_moments_that_cannot_be_used_are_named() -> None:
    hessian = torch.eye(32)
    hessian[3, 3] = float("nan")
    with pytest.raises(InputError, match=r"blk\.0\.attn_q\.weight.*not finite"):
        solve(some_grid("Q4_0", columns=32), torch.zeros(32, ROWS), hessian, "blk.0.attn_q.weight")
    indefinite = torch.eye(32)
    indefinite[0, 1] = indefinite[1, 0] = 2
    with pytest.raises(InputError, match="not positive definite"):
        inverse_factor(indefinite, "blk.0.attn_q.weight")
