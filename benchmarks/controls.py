"""What a recipe of types must beat to be worth its measurements: chance, and the line between its neighbours. Pure."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Sizes = Mapping[str, Mapping[str, int]]
"""Bytes of each tensor in each type that it may have."""


@dataclass(frozen=True)
class Point:
    """A file: its bytes, and its mean KL divergence in nats."""

    n_bytes: int
    kld: float


def random_types(sizes: Sizes, budget: int, seed: int) -> dict[str, str]:
    """A type for each tensor, drawn evenly from those that it may have, within a budget that is then filled.

    Tensors drawn by chance become smaller until all fit, and others larger until none can any more: what is left of the
    budget is less than any one tensor's step to its next larger type.

    Raises:
        ValueError: not even the smallest types fit.
    """
    least = sum(min(types.values()) for types in sizes.values())
    if least > budget:
        raise ValueError(f"The smallest types take {least} bytes, more than {budget}.")
    chance = random.Random(seed)
    chosen = {tensor: chance.choice(sorted(types)) for tensor, types in sizes.items()}
    while _left(sizes, chosen, budget) < 0:
        smaller = _steps(sizes, chosen, -budget, -1)
        tensor = chance.choice(sorted(smaller))
        chosen[tensor] = chance.choice(smaller[tensor])
    while larger := _steps(sizes, chosen, 1, _left(sizes, chosen, budget)):
        tensor = chance.choice(sorted(larger))
        chosen[tensor] = chance.choice(larger[tensor])
    return chosen


def _left(sizes: Sizes, chosen: Mapping[str, str], budget: int) -> int:
    return budget - sum(sizes[tensor][kind] for tensor, kind in chosen.items())


def _steps(sizes: Sizes, chosen: Mapping[str, str], least: int, most: int) -> dict[str, list[str]]:
    """The other types of each tensor that take so many bytes more: at least `least`, at most `most`; none left out."""
    found = {
        tensor: sorted(kind for kind, size in types.items() if least <= size - types[chosen[tensor]] <= most)
        for tensor, types in sizes.items()
    }
    return {tensor: kinds for tensor, kinds in found.items() if kinds}


def straight_line(presets: Sequence[Point], n_bytes: int) -> float | None:
    """The KL divergence at so many bytes on the line between the presets next below and next above, in nats.

    Its logarithm is linear in bytes: that is stricter than a line of the divergence itself, which lies above it. Presets
    that a smaller one beats are left out, for they would raise the line.

    Args:
        presets: without the one whose bytes these are, which would be the line.

    Returns:
        None where there is no preset on one of the sides.
    """
    front = [a for a in presets if not any(b.n_bytes <= a.n_bytes and b.kld < a.kld for b in presets)]
    below = max((p for p in front if p.n_bytes <= n_bytes), key=lambda p: p.n_bytes, default=None)
    above = min((p for p in front if p.n_bytes > n_bytes), key=lambda p: p.n_bytes, default=None)
    if below is None or above is None:
        return None
    part = (n_bytes - below.n_bytes) / (above.n_bytes - below.n_bytes)
    return math.exp((1 - part) * math.log(below.kld) + part * math.log(above.kld))


def spread(least: int, most: int, count: int) -> tuple[int, ...]:
    """So many sizes in bytes from `least` to `most`, both included, each the same factor larger than the last."""
    ratio = most / least
    return tuple(round(least * ratio ** (i / (count - 1))) for i in range(count))


def is_met(n_bytes: int, target: int, smallest_step: int, share: float = 0.002) -> bool:
    """Whether a file keeps to a target and uses it: no byte above, and below by a share or one tensor's smallest step."""
    return target - max(share * target, smallest_step) <= n_bytes <= target


def smallest_step(sizes: Sizes) -> int:
    """The fewest bytes that a next larger type of any tensor takes more; 0 where no tensor has two sizes."""
    ladders = [sorted(set(types.values())) for types in sizes.values()]
    return min((b - a for ladder in ladders for a, b in itertools.pairwise(ladder)), default=0)
