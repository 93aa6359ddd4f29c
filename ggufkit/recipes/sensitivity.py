"""From what a few measurements lost to what any choice of types is expected to lose.

A weight's error costs in proportion to its square, weighed by the second moment of what it is multiplied with; how much
that is worth in KL divergence is measured for each group of tensors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from ggufkit.recipes.groups import Group

Types = Mapping[str, str]
"""The types of tensors, by name."""
_LEAST = 1e-3


@dataclass(frozen=True)
class Sensitivities:
    """What the errors of each group's weights are worth.

    Args:
        groups: all tensors whose type may change.
        lost: of each tensor its weighed squared error in each type.
        worth: nats of mean KL divergence for a unit of it, by group.
    """

    groups: Sequence[Group]
    lost: Mapping[str, Mapping[str, float]]
    worth: Mapping[str, float]

    def of_tensor(self, name: str, type_name: str) -> float:
        """What a tensor is expected to add to mean KL divergence in a type, in nats."""
        return self._worth_of[name] * self.lost[name].get(type_name, 0.0)

    def of_group(self, group: Group, types: Types) -> float:
        """The same for a group's tensors."""
        return sum(self.of_tensor(name, types[name]) for name in group.tensors)

    def expected(self, types: Types) -> float:
        """The same for all tensors together."""
        return sum(self.of_tensor(name, kind) for name, kind in types.items())

    @cached_property
    def _worth_of(self) -> Mapping[str, float]:
        return {name: self.worth[group.label] for group in self.groups for name in group.tensors}

    def corrected(self, types: Types, total: float, gains: Mapping[str, float]) -> Sensitivities:
        """The same, half way to what it is in the midst of a choice of types, where errors add to those of others.

        Half way (of the logarithm), since a few differences of large figures say less than all measurements before.

        Args:
            types: the choice.
            total: its measured mean KL divergence.
            gains: by how much it falls when a group has the base's own types instead, by the group's label.
        """
        expected = {group.label: self.of_group(group, types) for group in self.groups}
        usual = math.sqrt(max(total, 0.0) / max(sum(expected.values()), 1e-300))
        ratios = {k: math.sqrt(max(gain / expected[k], _LEAST)) for k, gain in gains.items() if expected[k] > 0}
        return replace(self, worth={k: worth * ratios.get(k, usual) for k, worth in self.worth.items()})

    def split(self, probed: Types, measured: Mapping[str, float]) -> Sensitivities:
        """The same with some groups divided into their tensors, whose sum stays what the group is worth.

        Args:
            probed: the coarse type of each tensor that was measured alone: whole groups of them.
            measured: the mean KL divergence of that.
        """
        worth, groups = dict(self.worth), list[Group]()
        for group in self.groups:
            if not set(group.tensors) <= set(measured):
                groups.append(group)
                continue
            least = _LEAST * max(measured[name] for name in group.tensors)
            found = {name: max(measured[name], least, 1e-300) for name in group.tensors}
            scale = max(self.of_group(group, probed), 1e-300) / sum(found.values())
            for name, kld in found.items():
                groups.append(Group(name, (name,)))
                worth[name] = scale * kld / max(self.lost[name][probed[name]], 1e-300)
        return replace(self, groups=tuple(groups), worth=worth)


def sensitivities(
    groups: Sequence[Group],
    lost: Mapping[str, Mapping[str, float]],
    probed: Mapping[str, Types],
    measured: Mapping[str, float],
) -> Sensitivities:
    """What measurements of one coarse group at a time say.

    Args:
        probed: the coarse types of each group's tensors, by the group's label.
        measured: the mean KL divergence of that.
    """
    worth = {}
    largest = max(measured.values(), default=0.0)
    for group in groups:
        error = sum(lost[name][kind] for name, kind in probed[group.label].items())
        # What a measurement cannot tell from nothing is not free.
        worth[group.label] = max(measured[group.label], _LEAST * largest) / max(error, 1e-300)
    return Sensitivities(groups, lost, worth)
