"""From what a few measurements lost to what any choice of types is expected to lose.

A weight's error costs in proportion to its square, weighed by the second moment of what it is multiplied with; how much
that is worth in KL divergence is measured for each group of tensors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from ggufkit.recipes.groups import Group

Types = Mapping[str, str]
"""The types of tensors, by name."""
_LEAST = 1e-3
_NEAR = 0.2
_FLATTEST, _STEEPEST = 0.5, 1.5


@dataclass(frozen=True)
class Sensitivities:
    """What the errors of each group's weights are worth.

    Args:
        groups: all tensors whose type may change.
        lost: of each tensor its weighed squared error in each type.
        worth: nats of mean KL divergence for a unit of it, by group.
        probed: the error of each group's tensors together as they were measured.
        power: what the error is raised to, where another measurement told; 1 where not.
    """

    groups: Sequence[Group]
    lost: Mapping[str, Mapping[str, float]]
    worth: Mapping[str, float]
    probed: Mapping[str, float]
    power: Mapping[str, float] = field(default_factory=dict)

    def of_tensor(self, name: str, type_name: str) -> float:
        """What a tensor is expected to add to mean KL divergence in a type, in nats."""
        label = self._group_of[name]
        return float(self.worth[label] * self.lost[name].get(type_name, 0.0) ** self.power.get(label, 1.0))

    def of_group(self, group: Group, types: Types) -> float:
        """The same for a group's tensors."""
        return sum(self.of_tensor(name, types[name]) for name in group.tensors)

    def expected(self, types: Types) -> float:
        """The same for all tensors together."""
        return sum(self.of_tensor(name, kind) for name, kind in types.items())

    def error(self, group: Group, types: Types) -> float:
        """The weighed squared error of a group's tensors."""
        return sum(self.lost[name][types[name]] for name in group.tensors)

    @cached_property
    def _group_of(self) -> Mapping[str, str]:
        return {name: group.label for group in self.groups for name in group.tensors}

    def closer(self, types: Types, measured: Mapping[str, float]) -> Sensitivities:
        """The same with groups that were measured once more, in other types: between two measurements, a power law.

        Args:
            types: of the second measurement.
            measured: the mean KL divergence of each group alone in these types, by the group's label.
        """
        worth, power = dict(self.worth), dict(self.power)
        for group in self.groups:
            if group.label not in measured:
                continue
            first, error = self.probed[group.label], self.error(group, types)
            before, now = self.worth[group.label] * first, max(measured[group.label], 1e-300)
            distance = math.log(error / first)
            exponent = math.log(now / before) / distance if abs(distance) > _NEAR else 1.0
            power[group.label] = min(max(exponent, _FLATTEST), _STEEPEST)
            powers = [self.lost[name][types[name]] ** power[group.label] for name in group.tensors]
            worth[group.label] = now / sum(powers)
        return replace(self, worth=worth, power=power)

    def split(self, probed: Types, measured: Mapping[str, float]) -> Sensitivities:
        """The same with some groups divided into their tensors, whose sum stays what the group is worth.

        Args:
            probed: the coarse type of each tensor that was measured alone: whole groups of them.
            measured: the mean KL divergence of that.
        """
        worth, errors, groups = dict(self.worth), dict(self.probed), list[Group]()
        for group in self.groups:
            if not set(group.tensors) <= set(measured):
                groups.append(group)
                continue
            least = _LEAST * max(measured[name] for name in group.tensors)
            found = {name: max(measured[name], least, 1e-300) for name in group.tensors}
            scale = max(self.of_group(group, probed), 1e-300) / sum(found.values())
            for name, kld in found.items():
                groups.append(Group(name, (name,)))
                errors[name] = max(self.lost[name][probed[name]], 1e-300)
                worth[name] = scale * kld / errors[name]
        return replace(self, groups=tuple(groups), worth=worth, probed=errors)


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
    largest = max(measured.values(), default=0.0)
    errors = {g.label: max(sum(lost[n][k] for n, k in probed[g.label].items()), 1e-300) for g in groups}
    # What a measurement cannot tell from nothing is not free.
    worth = {label: max(measured[label], _LEAST * largest) / error for label, error in errors.items()}
    return Sensitivities(groups, lost, worth, errors)
