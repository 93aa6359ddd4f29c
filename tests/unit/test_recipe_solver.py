"""The best types within a budget: exact, within the budget, and honest about what is possible."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from ggufkit.core.errors import UsageError
from ggufkit.recipes.solver import Option, Solution, fastest, solve

pytest.importorskip("scipy")
TYPES = {"Q2_K": 84, "Q3_K": 110, "Q4_K": 144, "Q5_K": 176, "Q6_K": 210, "Q8_0": 272}


def problem(n_tensors: int, seed: int) -> dict[str, list[Option]]:
    random = np.random.default_rng(seed)
    sizes, worth = random.integers(1, 60, n_tensors), 10 ** random.uniform(-4, -1, n_tensors)
    return {
        f"t{i}": [Option(k, int(n * s) * 32, float(w * 4.0 ** (-n / 32))) for k, n in TYPES.items()]
        for i, (s, w) in enumerate(zip(sizes, worth, strict=True))
    }


def total(options: dict[str, list[Option]], pick: int) -> int:
    return sum(sorted(o.n_bytes for o in choices)[pick] for choices in options.values())


@pytest.mark.parametrize("seed", range(4))
def test_no_choice_within_the_budget_is_better(seed: int) -> None:
    options = problem(5, seed)
    budget = (total(options, 0) + total(options, -1)) // 2
    best = min(
        sum(o.loss for o in choice)
        for choice in itertools.product(*options.values())
        if sum(o.n_bytes for o in choice) <= budget
    )
    found = solve(options, budget)
    assert found.loss == pytest.approx(best, rel=1e-4)
    assert found.n_bytes <= budget
    assert found.bound <= found.loss * (1 + 1e-9)


def test_budgets_are_kept_and_used() -> None:
    options = problem(200, 1)
    smallest, largest = total(options, 0), total(options, -1)
    step = min(b - a for o in options.values() for a, b in itertools.pairwise(sorted(x.n_bytes for x in o)))
    for budget in np.linspace(smallest, largest, 20).astype(int):
        found = solve(options, int(budget))
        assert found.n_bytes <= budget
        assert budget - found.n_bytes <= max(0.002 * budget, step)
        assert found.gap < 1e-3


def test_what_cannot_be_met_says_what_can() -> None:
    options = problem(3, 0)
    with pytest.raises(UsageError) as raised:
        solve(options, total(options, 0) - 7)
    assert "7 bytes more" in (raised.value.hint or "")
    assert solve(options, total(options, 0)).types == dict.fromkeys(options, "Q2_K")


def test_the_fastest_choice_loses_no_more_than_is_allowed() -> None:
    slow = {"Q2_K": 3.0, "Q3_K": 4.0, "Q4_K": 1.0, "Q5_K": 2.0, "Q6_K": 2.5, "Q8_0": 1.5}
    options = {
        name: [replace(o, seconds=slow[o.type] * o.n_bytes / TYPES[o.type]) for o in choices]
        for name, choices in problem(30, 7).items()
    }
    budget = (total(options, 0) + total(options, -1)) // 2
    best = solve(options, budget)
    found, same = fastest(options, budget, best, 0.05), fastest(options, budget, best, 1e-9)
    assert found.n_bytes <= budget
    assert best.loss < found.loss <= best.loss * 1.05 * (1 + 1e-6)
    assert seconds(options, found) < seconds(options, best)
    assert same.loss == pytest.approx(best.loss, rel=1e-4)


def seconds(options: dict[str, list[Option]], chosen: Solution) -> float:
    return sum(o.seconds for name, choices in options.items() for o in choices if o.type == chosen.types[name])
