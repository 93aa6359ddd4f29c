"""The types that lose least within so many bytes: a multiple-choice knapsack, solved by HiGHS to a gap that is told."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf

from ggufkit.core.errors import UsageError
from ggufkit.core.units import size

_GAP, _PATIENCE_S = 1e-5, 20.0
_BLOCK = 32


@dataclass(frozen=True)
class Option:
    """One type that a tensor may get: its bytes in the file, what it is expected to lose, and seconds for each token."""

    type: str
    n_bytes: int
    loss: float
    seconds: float = 0.0


@dataclass(frozen=True)
class Solution:
    """A type for each tensor.

    Args:
        n_bytes: of all tensors together.
        loss: of all together.
        bound: no choice within the budget loses less than this.
    """

    types: Mapping[str, str]
    n_bytes: int
    loss: float
    bound: float

    @property
    def gap(self) -> float:
        """By how much the best choice could be better, at most: a fraction of the loss."""
        return (self.loss - self.bound) / self.loss if self.loss > 0 else 0.0


def solve(options: Mapping[str, Sequence[Option]], budget: int) -> Solution:
    """The choice with the least sum of losses whose bytes are within `budget`.

    Raises:
        UsageError: not even the smallest types fit.
    """
    kept = {tensor: _undominated(choices) for tensor, choices in options.items()}
    smallest = sum(choices[0].n_bytes for choices in kept.values())
    if smallest > budget:
        message = f"The smallest types take {size(smallest)} for the tensors, {size(max(budget, 0))} are wanted."
        hint = f"Ask for {smallest - budget:,} bytes more, or allow smaller types with --types-allowed."
        raise UsageError(message, hint=hint)
    found, allowed = _optimum(kept, budget), budget
    while found.n_bytes > budget:  # within the solver's tolerance
        allowed -= found.n_bytes - budget
        found = _optimum(kept, allowed)
    return found


def fastest(options: Mapping[str, Sequence[Option]], budget: int, best: Solution, more: float) -> Solution:
    """The choice with the least sum of seconds that loses at most the fraction `more` more than the best one."""
    found = _chosen(options, lambda o: o.seconds, budget, best.loss * (1 + more))
    if found is None or found.n_bytes > budget:  # within the solver's tolerance
        return best
    return replace(found, bound=best.bound)


def _undominated(choices: Sequence[Option]) -> list[Option]:
    """Without the options that are larger than another one and lose no less; the smallest first."""
    kept = list[Option]()
    for option in sorted(choices, key=lambda o: (o.n_bytes, o.loss)):
        if not kept or option.loss < kept[-1].loss:
            kept.append(option)
    return kept


def _optimum(options: Mapping[str, list[Option]], budget: int) -> Solution:
    found = _chosen(options, lambda o: o.loss, budget)
    assert found is not None  # the smallest types fit
    return found


def _chosen(
    options: Mapping[str, Sequence[Option]], cost: Callable[[Option], float], budget: int, most_loss: float = inf
) -> Solution | None:
    """The choice of least cost; None where the solver found none. Its bound is of the cost."""
    import numpy as np
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import coo_array

    flat = [(row, option) for row, tensor in enumerate(options) for option in options[tensor]]
    losses, costs = (np.array([of(o) for _, o in flat]) for of in (lambda o: o.loss, cost))
    n_bytes = np.array([option.n_bytes for _, option in flat], dtype=np.float64)
    unit, lost = max(costs.max(), 1e-300), max(losses.max(), 1e-300)
    rows = np.array([row for row, _ in flat])
    one_each = coo_array((np.ones(len(flat)), (rows, np.arange(len(flat)))), shape=(len(options), len(flat)))
    constraints = [
        LinearConstraint(one_each, 1, 1),
        LinearConstraint(n_bytes[None, :] / _BLOCK, 0, budget / _BLOCK),
    ]
    if most_loss < inf:
        constraints.append(LinearConstraint(losses[None, :] / lost, 0, most_loss / lost))
    found = milp(
        costs / unit,
        integrality=np.ones(len(flat)),
        bounds=Bounds(0, 1),
        constraints=constraints,
        options={"mip_rel_gap": _GAP, "time_limit": _PATIENCE_S},
    )
    if found.x is None:
        return None
    chosen = [option for (_, option), x in zip(flat, found.x, strict=True) if x > 0.5]
    types = {tensor: option.type for tensor, option in zip(options, chosen, strict=True)}
    total = sum(option.n_bytes for option in chosen)
    return Solution(types, total, sum(o.loss for o in chosen), float(found.mip_dual_bound) * float(unit))
