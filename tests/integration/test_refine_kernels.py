"""The compiled kernels do what torch's functions do; where they cannot be compiled those stand in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ggufkit.core.progress import SilentReporter
from ggufkit.refine import compiled, kernels
from ggufkit.refine.codecs import CODECS
from ggufkit.refine.grid import Grid
from ggufkit.refine.kernels import REFERENCE, Kernels
from ggufkit.refine.rounding import error
from ggufkit.refine.solve import damped, inverse_factor, orders_of
from tests.unit.test_refine_rounding import some_grid, some_problem

CPU = torch.device("cpu")
ROWS = 37  # a tile is not full
# A sum in another order decides a rounding in some thousands otherwise, and GPTQ then all that follow in its row.
SAME = 1e-3


@pytest.fixture(scope="module")
def fast() -> Kernels:
    found = kernels.of(CPU)
    if found is REFERENCE:
        pytest.skip("no C++ compiler")
    return found


def total(grid: Grid, target: torch.Tensor, hessian: torch.Tensor) -> float:
    return float(error(grid, target, hessian).double().sum())


@pytest.mark.parametrize("name", sorted(CODECS))
def test_each_kernel_does_what_the_reference_does(name: str, fast: Kernels) -> None:
    grid = some_grid(name, rows=ROWS)
    target, hessian = some_problem(grid)
    steady = damped(hessian, 0.01, "x")
    (order,) = orders_of(steady, grid.codec.unit, "on")
    factor, ordered = inverse_factor(steady, "x"), inverse_factor(steady[order][:, order], "x")
    steps: list[Callable[[Kernels, Grid], None]] = [
        lambda do, g: do.gptq(g, target, factor),
        lambda do, g: do.gptq(g, target, ordered, order),
        lambda do, g: do.descend(g, target, hessian, 3),
        lambda do, g: do.refit(g, target, hessian),
        lambda do, g: do.search(g, target, hessian),
        lambda do, g: do.descend(g, target, hessian, 2),
    ]
    for step in steps:
        other = grid.rows(0, ROWS)
        step(REFERENCE, grid)
        step(fast, other)
        assert total(other, target, hessian) == pytest.approx(total(grid, target, hessian), rel=SAME)
        same = sum((a == b).all(0).float().mean().item() for a, b in pairs(grid, other)) / 5
        assert same > 0.95


def pairs(one: Grid, other: Grid) -> list[tuple[torch.Tensor, torch.Tensor]]:
    names = ("level", "d", "dmin", "scale", "least")
    return [(getattr(one, n).flatten(0, -2), getattr(other, n).flatten(0, -2)) for n in names]


def test_a_step_of_zero_leaves_levels_and_dead_columns_do_no_harm(fast: Kernels) -> None:
    grid = some_grid("Q4_K", rows=ROWS)
    target, hessian = some_problem(grid)
    hessian[:32] = hessian[:, :32] = 0
    hessian = damped(hessian, 1e-6, "x")
    grid.scale[0, 2] = 0
    kept = grid.level[64:96].clone()
    fast.gptq(grid, target, inverse_factor(damped(hessian, 0.01, "x"), "x"))
    fast.descend(grid, target, hessian, 2)
    assert torch.equal(grid.level[64:96], kept)
    fast.refit(grid, target, hessian)
    fast.search(grid, target, hessian)
    assert grid.weights().isfinite().all()


def test_any_number_of_threads_gives_the_same(fast: Kernels) -> None:
    before, results = torch.get_num_threads(), []
    try:
        for n_threads in (1, 3):
            torch.set_num_threads(n_threads)
            grid = some_grid("Q3_K", rows=3 * ROWS)
            target, hessian = some_problem(grid)
            for change in (fast.refit, fast.search):
                change(grid, target, hessian)
            fast.descend(grid, target, hessian, 2)
            results.append(grid)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in pairs(*results))


def test_without_a_compiler_torch_stands_in_and_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    reporter = SilentReporter()
    monkeypatch.setattr(reporter, "info", said.append)
    monkeypatch.setattr(compiled, "find_program", lambda _: None)
    monkeypatch.setattr(kernels, "_known", {})
    assert kernels.of(CPU, reporter) is REFERENCE
    assert kernels.of(CPU, reporter) is REFERENCE
    assert [("g++" in text) for text in said] == [True]


def test_what_cannot_be_compiled_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "rows.cpp"
    broken.write_text("no C++\n")
    monkeypatch.setenv("GGUFKIT_CACHE", str(tmp_path))
    monkeypatch.setattr(compiled, "_SOURCE", broken)
    reporter = SilentReporter()
    assert compiled.find(reporter) is None
    assert len(reporter.warnings) == 1
    assert str(tmp_path) in reporter.warnings[0]


def test_a_cache_that_cannot_be_written_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GGUFKIT_CACHE", str(tmp_path / "file" / "cache"))
    reporter = SilentReporter()
    assert compiled.find(reporter) is None
    assert "so it is slower" in reporter.warnings[0]


@pytest.mark.parametrize(("n_tokens", "n", "m"), [(64, 64, 96), (33, 96, 40)])
def test_sums_of_products_are_exact(n_tokens: int, n: int, m: int, fast: Kernels) -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(n_tokens, width, generator=generator) for width in (n, m))
    crossed, gram = torch.ones(n, m), torch.ones(n, n)
    fast.add_products(crossed, x, y)
    fast.add_gram(gram, x)
    x, y = x.double(), y.double()
    assert torch.allclose(crossed.double(), 1 + x.T @ y, atol=1e-4)
    assert torch.allclose(gram.triu().double(), (1 + x.T @ x).triu(), atol=1e-4)
