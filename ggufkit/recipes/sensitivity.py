"""From what a few measurements lost to what any choice of types is expected to lose.

A weight's error costs in proportion to its square, weighed by the second moment of what it is multiplied with; how much
that is worth in KL divergence is measured for each group of tensors, once or in several types.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from ggufkit.recipes.groups import Group

Types = Mapping[str, str]
"""The types of tensors, by name."""
_LEAST, _TINY = 1e-3, 1e-300
_NEAR = 0.2
_DOUBTED = 0.1  # of what is expected: less was too little to be measured
_FLATTEST, _STEEPEST = 0.5, 1.5


@dataclass(frozen=True)
class Worth:
    """What errors of a group's weights are worth: measured points, and a power law from each to the next.

    Args:
        points: weighed squared errors and the mean KL divergence in nats of each, the smallest error first.
    """

    points: tuple[tuple[float, float], ...]

    def at(self, error: float) -> float:
        """The mean KL divergence that is expected of an error; in proportion to it where only one was measured."""
        if error <= 0:
            return 0.0
        upper = next((i for i, (e, _) in enumerate(self.points) if e >= error), len(self.points) - 1)
        nearest, nats = min(self.points[max(0, upper - 1) : upper + 1], key=lambda p: abs(math.log(p[0] / error)))
        return float(nats * (error / nearest) ** self._power(upper))

    def _power(self, upper: int) -> float:
        """Of the law that ends at a point; of the first and the last one also beyond them."""
        if len(self.points) == 1:
            return 1.0
        (e0, k0), (e1, k1) = self.points[max(0, upper - 1) : max(0, upper - 1) + 2]
        return min(max(math.log(k1 / k0) / math.log(e1 / e0), _FLATTEST), _STEEPEST)

    def knowing(self, error: float, nats: float) -> Worth:
        """The same with another measurement, which counts for more than those of nearly the same error."""
        error = max(error, _TINY)
        kept = [point for point in self.points if abs(math.log(point[0] / error)) > _NEAR]
        return Worth(tuple(sorted([*kept, (error, max(nats, _DOUBTED * self.at(error)))])))


@dataclass(frozen=True)
class Sensitivities:
    """What the errors of each group's weights are worth.

    Args:
        groups: all tensors whose type may change.
        lost: of each tensor its weighed squared error in each type.
        worth: of each group's tensors together, by its label.
    """

    groups: Sequence[Group]
    lost: Mapping[str, Mapping[str, float]]
    worth: Mapping[str, Worth]

    def of_tensor(self, name: str, type_name: str) -> float:
        """What a tensor is expected to add to mean KL divergence in a type, in nats: its share of its group's."""
        lost = self.lost[name].get(type_name, 0.0)
        group = self._group_of[name]
        if lost <= 0:
            return 0.0
        together = sum(self.lost[other].get(type_name, self.lost[name][type_name]) for other in group.tensors)
        return self.worth[group.label].at(together) * lost / together

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
    def _group_of(self) -> Mapping[str, Group]:
        return {name: group for group in self.groups for name in group.tensors}

    def closer(self, types: Types, measured: Mapping[str, float]) -> Sensitivities:
        """The same with groups that were measured once more, in other types.

        Args:
            types: of that measurement.
            measured: the mean KL divergence of each group alone in these types, by the group's label.
        """
        worth = dict(self.worth)
        for group in self.groups:
            if group.label in measured:
                error = self.error(group, types)
                worth[group.label] = worth[group.label].knowing(error, measured[group.label])
        return replace(self, worth=worth)

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
            found = {name: max(measured[name], least, _TINY) for name in group.tensors}
            scale = max(self.of_group(group, probed), _TINY) / sum(found.values())
            for name, kld in found.items():
                groups.append(Group(name, (name,)))
                worth[name] = Worth(((max(self.lost[name][probed[name]], _TINY), scale * kld),))
        return replace(self, worth=worth, groups=tuple(groups))


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
    # What a measurement cannot tell from nothing is not free.
    least = max(_LEAST * max(measured.values(), default=0.0), _TINY)
    errors = {g.label: max(sum(lost[n][k] for n, k in probed[g.label].items()), _TINY) for g in groups}
    worth = {label: Worth(((error, max(measured[label], least)),)) for label, error in errors.items()}
    return Sensitivities(groups, lost, worth)
