"""What several texts say of each file: the mean, the worst, and whether it is good on one and bad on another.

Pure functions. Texts differ in how much any file loses on them: Chinese may cost three times what English does, whatever the
file. So the losses of a file are held against those of others. Files that no text had a part in (`plain`) are the measure
where there are any, for rounding alone treats all texts alike; else all other files are, two at least. The rule:

1. Beside another file, a file's excess on a text is its loss there over the other's; how much both lose in all cancels out.
2. Its greatest excess over its least is its unevenness beside that file.
3. It is told of if its unevenness beside each file of the measure is `UNEVEN` or more, and more than chance would bring:
   `_SIGMAS` standard errors of its logarithm. So one odd file does not make all others odd.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from ggufkit.core.records import F16, Conditions
from ggufkit.report.conditions import Measured

UNEVEN = 1.5
"""How many times as much a file may lose on one text as on another, where others lose alike."""
PLAIN = "plain"
_OTHERS = 2
_MOST = 3
_SIGMAS = 3.0
"""More than one difference needs: the best and the worst of several texts are looked for."""


@dataclass(frozen=True)
class TextLoss:
    """Mean KL divergence on a text, in nats, with its standard error, 0 where none is known."""

    text: str
    value: float
    error: float = 0.0

    @property
    def relative(self) -> float:
        """The error as a fraction, which is that of the value's logarithm."""
        return self.error / self.value


@dataclass(frozen=True)
class FileLosses:
    """What one file loses on each text, the table's first; `plain` where its rounding knows of no text."""

    file: str
    losses: tuple[TextLoss, ...]
    plain: bool = False

    def on(self, text: str) -> TextLoss | None:
        """What it loses on a text; None where it was not measured on it."""
        return next((loss for loss in self.losses if loss.text == text), None)

    @property
    def mean(self) -> float:
        """Over texts, each of the same weight."""
        return fmean(loss.value for loss in self.losses)

    @property
    def worst(self) -> TextLoss:
        """The text on which it loses most."""
        return max(self.losses, key=lambda loss: loss.value)


@dataclass(frozen=True)
class Uneven:
    """A file that is good on one text and bad on another: it loses `times` as much on `bad` as on `good`, measured by what
    the files `beside` it lose there."""

    file: str
    good: str
    bad: str
    times: float
    beside: str

    @property
    def sentence(self) -> str:
        """All of it."""
        return (
            f"{self.file} is good on {self.good} and bad on {self.bad}: held against {self.beside}, it loses "
            f"{self.times:.1f} times as much on {self.bad} as on {self.good}."
        )


@dataclass(frozen=True)
class Texts:
    """Mean KL divergence per text: nothing where there is but one text.

    Args:
        names: of the texts, the table's first, then by name.
        files: those that were measured on any of them.
    """

    names: tuple[str, ...] = ()
    files: tuple[FileLosses, ...] = ()

    @property
    def sentences(self) -> list[str]:
        """What is to be warned of."""
        return [one.sentence for one in uneven(self.files)]

    def first(self, taken: str = "") -> list[str]:
        """Those to tell beside the answer: of the file to take, then the most uneven ones, and how many are left."""
        told = [one.sentence for one in self._by_weight(taken)]
        left = len(told) - _MOST
        return told if left <= 0 else [*told[:_MOST], f"{left} more are good on one text and bad on another."]

    def rest(self, taken: str = "") -> list[str]:
        """Those that `first` only counts."""
        return [one.sentence for one in self._by_weight(taken)[_MOST:]]

    def _by_weight(self, taken: str) -> list[Uneven]:
        return sorted(uneven(self.files), key=lambda one: (one.file != taken, -one.times))

    @property
    def finding(self) -> str:
        """The texts, and where most is lost, in a line."""
        most = max(self.files, key=lambda one: one.worst.value)
        lost = f"Worst: {most.file} on {most.worst.text}, KLD {most.worst.value:.6f}."
        return f"{', '.join(self.names)}. {lost}"


def several(measured: Sequence[Measured]) -> Texts:
    """What these measurements say of texts, with an F16 KV cache and in the context of the table."""
    found = [one for one in measured if one.kv_type == F16 and one.value("kld_mean") is not None]
    first = next((one.conditions for one in found if not one.is_further), None)
    if first is None:
        return Texts()
    alike = [
        one
        for one in found
        if (one.conditions.n_ctx, one.conditions.base_sha256) == (first.n_ctx, first.base_sha256)
    ]
    names = _names(
        [one.conditions for one in sorted(alike, key=lambda one: (one.is_further, one.conditions.corpus or ""))]
    )
    if len(names) < 2:
        return Texts()
    by_file: dict[str, list[Measured]] = {}
    for one in alike:
        by_file.setdefault(one.row.file, []).append(one)
    return Texts(tuple(names.values()), tuple(_losses(file, ones, names) for file, ones in by_file.items()))


_Sample = tuple[str | None, int | None]
"""A text by its hash, and how many chunks of it."""


def _sample(where: Conditions) -> _Sample:
    return where.corpus_sha256, where.n_chunks


def _names(found: Sequence[Conditions]) -> dict[_Sample, str]:
    """What each text is called, in this order; chunks and hashes are named where the names alone are not different."""
    names = {_sample(where): where.corpus or str(where.corpus_sha256)[:12] for where in found}
    counts = Counter(names.values())
    twice = {key: f"{name}, {key[1]} chunks" if counts[name] > 1 else name for key, name in names.items()}
    counts = Counter(twice.values())
    return {key: f"{name}, {str(key[0])[:8]}" if counts[name] > 1 else name for key, name in twice.items()}


def _losses(file: str, ones: Sequence[Measured], names: Mapping[_Sample, str]) -> FileLosses:
    values = {names[_sample(one.conditions)]: one.value("kld_mean") or (0.0, None) for one in ones}
    losses = (TextLoss(name, *_known(values[name])) for name in names.values() if name in values)
    return FileLosses(file, tuple(losses), ones[0].row.variant == PLAIN)


def _known(value: tuple[float, float | None]) -> tuple[float, float]:
    return value[0], value[1] or 0.0


def uneven(files: Sequence[FileLosses]) -> tuple[Uneven, ...]:
    """The files that are told of, by the rule above; only files measured on the same texts are compared.

    Files whose loss is 0 on a text, as a base's is, are left out.
    """
    fit = [one for one in files if len(one.losses) > 1 and all(loss.value > 0 for loss in one.losses)]
    found = (
        _uneven(one, [other for other in fit if other is not one and _texts(other) == _texts(one)]) for one in fit
    )
    return tuple(one for one in found if one is not None)


def _texts(one: FileLosses) -> frozenset[str]:
    return frozenset(loss.text for loss in one.losses)


def _uneven(one: FileLosses, others: Sequence[FileLosses]) -> Uneven | None:
    plain = [other for other in others if other.plain]
    beside = plain or list(others)
    if one.plain or (not plain and len(beside) < _OTHERS):
        return None
    gaps = [_gap(one, other) for other in beside]
    if not all(gap.is_told for gap in gaps):
        return None
    least = min(gaps, key=lambda gap: gap.size)
    named = "the plain files" if plain else "the other files"
    return Uneven(one.file, least.good, least.bad, math.exp(least.size), named)


@dataclass(frozen=True)
class _Gap:
    """How much more a file loses on `bad` than on `good`, beside another: the logarithm, and its standard error."""

    good: str
    bad: str
    size: float
    error: float

    @property
    def is_told(self) -> bool:
        return self.size >= math.log(UNEVEN) and self.size > _SIGMAS * self.error


def _gap(one: FileLosses, other: FileLosses) -> _Gap:
    own, its = ({loss.text: loss for loss in file.losses} for file in (one, other))
    excess = {text: math.log(own[text].value / its[text].value) for text in own}
    good, bad = min(excess, key=excess.__getitem__), max(excess, key=excess.__getitem__)
    errors = (loss.relative for text in (good, bad) for loss in (own[text], its[text]))
    return _Gap(good, bad, excess[bad] - excess[good], math.hypot(*errors))
