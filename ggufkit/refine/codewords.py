"""The word of a codebook that is nearest under H, for all rows side by side.

A unit is levels that are chosen together: one word, or as many as share their signs' parity. What is minimised is
(l - y)ᵀ M (l - y) for the levels l of a unit; its signs and its words are chosen in turn, each the best for the other.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch

from ggufkit.refine.codebooks import Codebook


class _Table(NamedTuple):
    """Words on a device.

    Shapes: words (n, length), squares (n, length), and what `_scores` multiplies, twice the products of each two levels of a
    word, and -2 times each level: (n, pairs + length). `first` and `second` are the levels of each pair.
    """

    words: torch.Tensor
    squares: torch.Tensor
    factors: torch.Tensor
    first: torch.Tensor
    second: torch.Tensor


@lru_cache
def _table(book: Codebook, device: torch.device) -> _Table:
    words = torch.from_numpy(book.words).to(device, torch.float32)
    first, second = torch.triu_indices(book.length, book.length, 1, device=device)
    factors = torch.cat([2 * words[:, first] * words[:, second], -2 * words], dim=1)
    return _Table(words, words.square(), factors, first, second)


def nearest(book: Codebook, y: torch.Tensor, metric: torch.Tensor) -> torch.Tensor:
    """Levels near `y` (levels of a unit, rows) under `metric` (levels, levels)."""
    table, wanted = _table(book, y.device), metric @ y
    signs = torch.where(y < 0, -1.0, 1.0)
    if book.is_even:
        _make_even(signs, y.abs() * metric.diagonal()[:, None])
    level = _words(table, signs, wanted, metric, y)
    turn = _turn_a_pair if book.is_even else _turn_each
    turn(level, metric @ level - wanted, metric)
    return _words(table, level.sign(), wanted, metric, level)


def _make_even(signs: torch.Tensor, costs: torch.Tensor) -> None:
    """Where an odd number is negative, turn the sign that costs least."""
    cheapest = costs.argmin(0, keepdim=True)
    signs.scatter_(0, cheapest, signs.gather(0, cheapest) * signs.prod(0))


def _words(
    table: _Table, signs: torch.Tensor, wanted: torch.Tensor, metric: torch.Tensor, level: torch.Tensor
) -> torch.Tensor:
    """The best word for each part of a unit in turn, given the signs, and the levels of the other part until it has some.

    Args:
        wanted: the product of the metric and what levels should be near to.
    """
    level, length = level.clone(), table.words.shape[1]
    parts = [slice(at, at + length) for at in range(0, len(signs), length)]
    for part in (*parts, *parts[:-1]):
        near, sign = metric[part, part], signs[part]
        rest = wanted[part] - metric[part] @ level + near @ level[part]
        bent = sign[table.first] * sign[table.second] * near[table.first, table.second][:, None]
        scores = torch.addmm(
            (table.squares @ near.diagonal())[:, None], table.factors, torch.cat([bent, sign * rest])
        )
        level[part] = table.words[scores.argmin(0)].T * sign
    return level


def _turn_each(level: torch.Tensor, slope: torch.Tensor, metric: torch.Tensor) -> None:
    """Change the sign of each level in turn where that brings them nearer; their slope is twice `slope`."""
    for i in range(len(level)):
        change = torch.where(_turned(level[i], slope[i], metric[i, i]) < 0, -2 * level[i], 0)
        level[i] += change
        slope.addr_(metric[:, i], change)


def _turn_a_pair(level: torch.Tensor, slope: torch.Tensor, metric: torch.Tensor) -> None:
    """Change the signs of the two levels that bring them nearest so, where any do."""
    first, second = torch.triu_indices(len(level), len(level), 1, device=level.device)
    each = _turned(level, slope, metric.diagonal()[:, None])
    both = each[first] + each[second] + 2 * level[first] * level[second] * metric[first, second][:, None]
    least, best = both.min(0)
    factor = torch.where(least < 0, -1.0, 1.0)
    for place in (first[best][None], second[best][None]):
        level.scatter_(0, place, level.gather(0, place) * factor)


def _turned(level: torch.Tensor, slope: torch.Tensor, bend: torch.Tensor) -> torch.Tensor:
    """A quarter of what is added to (l - y)ᵀ M (l - y) when a level changes its sign."""
    return level * (level * bend - slope)
