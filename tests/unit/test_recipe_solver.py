"""The best types within a budget: exact, within the budget, and honest about what is possible."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from ggufkit.core.errors import UsageError
from ggufkit.recipes.solver import Option, solve

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
