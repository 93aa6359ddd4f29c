"""How much is measured for a recipe."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Effort:
    """What is measured.

    Args:
        groups: at most so many groups of tensors, one evaluation each.
        corrections: so much is measured once more, in each of `rounds`: tensors of the dominating groups, or where each
            tensor is a group, groups in the midst of a recipe.
        n_chunks: of text that each evaluation reads.
    """

    groups: int
    corrections: int
    rounds: int
    n_chunks: int

    @property
    def most_evaluations(self) -> int:
        """Evaluations of one recipe at most: groups, the recipe's own surroundings, and the comparison at the end."""
        return self.groups + self.rounds * (1 + self.corrections) + COMPARED


COMPARED = 4
"""Recipes and presets that are compared at the end."""

EFFORTS = {
    "quick": Effort(groups=16, corrections=0, rounds=0, n_chunks=4),
    "default": Effort(groups=44, corrections=11, rounds=1, n_chunks=8),
    "thorough": Effort(groups=120, corrections=20, rounds=2, n_chunks=16),
}
