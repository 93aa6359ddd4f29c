"""How long work took on this machine, kept in the cache: what a plan and a running build tell of the time.

Of each kind of work a few samples are kept for each size; the pace of another size lies between those of its
neighbours. What is damaged or cannot be written costs an estimate, never a result.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from itertools import pairwise
from statistics import median

from filelock import FileLock, Timeout

from ggufkit.core import machine, units
from ggufkit.core.errors import InputError
from ggufkit.core.jsonfile import read_json
from ggufkit.core.manifest import write_atomically
from ggufkit.core.paths import cache_dir

_KEPT, _MOST = 7, 4000
"""Samples of the same work, and of all."""
FILE = "durations.json"
"""Its name in the cache."""
_EXACT, _OTHER, _SPREAD_PER_OCTAVE = 1.25, 1.6, 1.12
"""Factors of error: of work that was measured, of another variety of it, and for each doubling of its size."""
_WORST = 4.0
_START = 0.5
"""Of the smallest work that was measured, the part that still smaller work takes all the same."""


@dataclass(frozen=True)
class Work:
    """Some work whose time can be told from that of like work.

    Args:
        kind: "convert", "quantize"…; each has its own `units`: weights, weights times tokens, bytes.
        how: a variety of the kind that has a pace of its own: the type of a quantization.
        on: what computes: backend and threads.
    """

    kind: str
    units: float
    how: str = ""
    on: str = ""


@dataclass(frozen=True)
class Estimate:
    """Seconds that work will take, most likely between `seconds / factor` and `seconds * factor`."""

    seconds: float
    factor: float


@dataclass(frozen=True)
class Sample:
    """Work that was done here, and its seconds."""

    kind: str
    units: float
    how: str
    on: str
    seconds: float

    @property
    def size(self) -> int:
        """Works of one size differ by half at most."""
        return round(2 * math.log2(max(self.units, 1)))


@dataclass(frozen=True)
class _File:
    samples: list[Sample] = field(default_factory=list)


def known() -> Durations:
    """What is known of this machine now."""
    return Durations(_read())


def note(work: Work, seconds: float) -> None:
    """Remember how long work took. Raises nothing."""
    path, new = cache_dir() / FILE, Sample(work.kind, work.units, work.how, _here(work.on), seconds)
    with contextlib.suppress(OSError, Timeout):
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock"), timeout=1):
            kept = _with(_read(), new)
            write_atomically(path, json.dumps({"samples": [asdict(s) for s in kept]}))


def _read() -> list[Sample]:
    try:
        samples = read_json(cache_dir() / FILE, _File).samples
    except InputError:
        return []
    return [s for s in samples if 0 < s.units < math.inf and 0 < s.seconds < math.inf]


def _with(samples: Sequence[Sample], new: Sample) -> list[Sample]:
    """The newest of each work."""

    def is_like(s: Sample) -> bool:
        return (s.kind, s.how, s.on, s.size) == (new.kind, new.how, new.on, new.size)

    like = [s for s in samples if is_like(s)][-(_KEPT - 1) :]
    return [*(s for s in samples if not is_like(s)), *like, new][-_MOST:]


@lru_cache
def _machine() -> str:
    return machine.describe()


def _here(on: str) -> str:
    """A cache may be shared by machines."""
    return f"{_machine()}; {on}"


class Durations:
    """Estimates from samples."""

    def __init__(self, samples: Iterable[Sample]) -> None:
        self._samples = list(samples)

    def estimate(self, work: Work) -> Estimate | None:
        """How long work will take; None where nothing like it was done here."""
        like = [s for s in self._samples if (s.kind, s.on) == (work.kind, _here(work.on))]
        same = [s for s in like if s.how == work.how]
        if not like:
            return None
        points = _points(same or like)
        away = min(abs(math.log2(max(work.units, 1) / units)) for units, _ in points)
        factor = (_spread(same) if same else _OTHER) * _SPREAD_PER_OCTAVE**away
        return Estimate(_interpolated(points, work.units), min(factor, _WORST))

    def varieties(self, work: Work) -> dict[str, float]:
        """Seconds of each variety of work of a kind and a size."""
        like = [s for s in self._samples if (s.kind, s.on, s.units) == (work.kind, _here(work.on), work.units)]
        return {how: median(s.seconds for s in like if s.how == how) for how in {s.how for s in like}}


def _points(samples: Iterable[Sample]) -> list[tuple[float, float]]:
    """Median units and seconds of each size, the smallest first."""
    by_size: dict[int, list[Sample]] = {}
    for sample in samples:
        by_size.setdefault(sample.size, []).append(sample)
    return sorted((median(s.units for s in of), median(s.seconds for s in of)) for of in by_size.values())


def _interpolated(points: Sequence[tuple[float, float]], units: float) -> float:
    """Seconds on the lines between points; beyond the largest as there, never faster than a quarter of its pace."""
    (least, shortest), (most, longest) = points[0], points[-1]
    if units <= least:
        return shortest * (_START + (1 - _START) * units / least)
    for (u0, s0), (u1, s1) in pairwise(points):
        if units <= u1:
            return s0 + (s1 - s0) * (units - u0) / (u1 - u0)
    pace = longest / most
    if len(points) > 1:
        before, shorter = points[-2]
        pace = min(max((longest - shorter) / (most - before), pace / 4), pace)
    return longest + (units - most) * pace


def _spread(samples: Sequence[Sample]) -> float:
    """By which factor most samples of a size are off their median."""
    off = [_EXACT]
    by_size: dict[int, list[float]] = {}
    for sample in samples:
        by_size.setdefault(sample.size, []).append(max(sample.seconds, 1e-3))
    for seconds in by_size.values():
        middle = median(seconds)
        off.append(math.exp(median(abs(math.log(s / middle)) for s in seconds)) ** 2)
    return max(off)


def total(estimates: Sequence[Estimate]) -> Estimate:
    """Of works one after the other; errors of like works are alike, and do not cancel each other."""
    seconds = sum(e.seconds for e in estimates)
    if seconds <= 0:
        return Estimate(0.0, _EXACT)
    return Estimate(seconds, sum(e.seconds * e.factor for e in estimates) / seconds)


def words(estimate: Estimate) -> str:
    """For people: "about 3 min, give or take a third"."""
    named = (1.27, "a quarter"), (1.4, "a third"), (1.75, "half"), (2.5, "a factor of two")
    off = next((name for most, name in named if estimate.factor <= most), "a factor of three")
    return f"about {units.rough(estimate.seconds)}, give or take {off}"
