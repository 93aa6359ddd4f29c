"""The types that lose least within so many bytes: a multiple-choice knapsack, solved by HiGHS to a gap that is told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ggufkit.core.errors import UsageError
from ggufkit.core.units import size

_GAP, _PATIENCE_S = 1e-5, 20.0
_BLOCK = 32


@dataclass(frozen=True)
class Option:
    """One type that a tensor may get: its bytes in the file, and what it is expected to lose."""

    type: str
    n_bytes: int
    loss: float


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


def _undominated(choices: Sequence[Option]) -> list[Option]:
    """Without the options that are larger than another one and lose no less; the smallest first."""
    kept = list[Option]()
    for option in sorted(choices, key=lambda o: (o.n_bytes, o.loss)):
        if not kept or option.loss < kept[-1].loss:
            kept.append(option)
    return kept


def _optimum(options: Mapping[str, list[Option]], budget: int) -> Solution:
    import numpy as np
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import coo_array

    flat = [(row, option) for row, tensor in enumerate(options) for option in options[tensor]]
    losses = np.array([option.loss for _, option in flat])
    n_bytes = np.array([option.n_bytes for _, option in flat], dtype=np.float64)
    unit = max(losses.max(), 1e-300)
    rows = np.array([row for row, _ in flat])
    one_each = coo_array((np.ones(len(flat)), (rows, np.arange(len(flat)))), shape=(len(options), len(flat)))
    found = milp(
        losses / unit,
        integrality=np.ones(len(flat)),
        bounds=Bounds(0, 1),
        constraints=[
            LinearConstraint(one_each, 1, 1),
            LinearConstraint(n_bytes[None, :] / _BLOCK, 0, budget / _BLOCK),
        ],
        options={"mip_rel_gap": _GAP, "time_limit": _PATIENCE_S},
    )
    chosen = [option for (_, option), x in zip(flat, found.x, strict=True) if x > 0.5]
    types = {tensor: option.type for tensor, option in zip(options, chosen, strict=True)}
    total = sum(option.n_bytes for option in chosen)
    return Solution(types, total, sum(o.loss for o in chosen), float(found.mip_dual_bound) * float(unit))
