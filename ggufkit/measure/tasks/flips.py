"""Answers of a file beside its base's, question by question. Pure functions.

Accuracies of two files on the same questions differ by far less than their errors: most answers are the same. What tells
files apart are the flips, answers that are right in one and wrong in the other (arXiv 2407.09141).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

Answers = Sequence[bool]
"""Which questions were answered rightly."""


@dataclass(frozen=True)
class Share:
    """A fraction of questions, with its standard error; None for that of a single question."""

    value: float
    stderr: float | None


@dataclass(frozen=True)
class Flips:
    """Of how many questions the answer changed: right ones lost, and wrong ones put right."""

    n: int
    lost: int
    gained: int

    @property
    def share(self) -> Share:
        """The fraction of answers that changed."""
        return share(self.lost + self.gained, self.n)

    @property
    def change(self) -> Share:
        """The change of the accuracy, with the error of the difference on the same questions."""
        value = (self.gained - self.lost) / self.n
        spread = (self.lost + self.gained) / self.n - value * value
        return Share(value, math.sqrt(spread / (self.n - 1)) if self.n > 1 else None)

    @property
    def p(self) -> float:
        """The p-value of McNemar's exact test, two-sided: how likely so uneven flips are, were both directions as likely.

        Twice the tail of a binomial distribution of one half, no more than 1; 1 without flips.
        """
        flipped = self.lost + self.gained
        tail = sum(math.comb(flipped, k) for k in range(min(self.lost, self.gained) + 1))
        return float(min(Fraction(1), Fraction(2 * tail, 2**flipped)))


def share(count: int, n: int) -> Share:
    """A fraction of n questions, which stand for all that might have been drawn."""
    p = count / n
    return Share(p, math.sqrt(p * (1 - p) / (n - 1)) if n > 1 else None)


def accuracy(right: Answers) -> Share:
    """The share of right answers."""
    return share(sum(right), len(right))


def compare(base: Answers, file: Answers) -> Flips:
    """How a file's answers differ from its base's. Raises ValueError where they are not to the same questions."""
    pairs = list(zip(base, file, strict=True))
    return Flips(len(pairs), sum(b and not f for b, f in pairs), sum(f and not b for b, f in pairs))
