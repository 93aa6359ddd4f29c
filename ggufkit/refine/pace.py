"""How far a long step is, and how long it will still take."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from ggufkit.core.progress import Progress


@dataclass
class Pace:
    """Reports how far a step is, and how long it will still take at the pace so far.

    Args:
        progress: where to.
        first, total: the unit at which this run starts, and their number.
    """

    progress: Progress
    first: float
    total: float
    started: float = field(default_factory=time.monotonic)

    def at(self, done: float, what: str) -> None:
        """`done` units are finished and `what` is next."""
        gone, share = time.monotonic() - self.started, (done - self.first) / (self.total - self.first)
        note = what if share <= 0 else f"{what}, {_duration(gone / share - gone)} left"
        self.progress.update(done, self.total, note)


@dataclass(frozen=True)
class Part:
    """A part of a step: it begins at `first` units, and each of its own is `worth` so much of them."""

    pace: Pace
    first: float
    worth: float
    what: str

    def at(self, done: int) -> None:
        """`done` of the part's own units are finished."""
        self.pace.at(self.first + done * self.worth, self.what)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
