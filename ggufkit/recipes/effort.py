"""How much is measured for a recipe."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Effort:
    """What is measured.

    Args:
        groups: at most so many groups of tensors, one evaluation each.
        again: so much is measured once more, in each of `rounds`: the dominating groups tensor by tensor, or where each
            tensor is a group, in the types that were chosen.
        n_chunks: of text that each evaluation reads.
    """

    groups: int
    again: int
    rounds: int
    n_chunks: int

    @property
    def most_evaluations(self) -> int:
        """Evaluations of one recipe at most: groups, the dominating ones again, and the comparison at the end."""
        return self.groups + self.rounds * self.again + COMPARED


COMPARED = 4
"""Recipes and presets that are compared at the end."""

EFFORTS = {
    "quick": Effort(groups=16, again=0, rounds=0, n_chunks=4),
    "default": Effort(groups=44, again=12, rounds=1, n_chunks=8),
    "thorough": Effort(groups=120, again=20, rounds=2, n_chunks=16),
}
