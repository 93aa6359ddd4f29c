"""What the workers of a sweep offer, and what jobs wait for that none of them does."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from ggufkit.sweep.station import CHECKED, CPU, GPU

_KINDS = {GPU: "with a GPU", CPU: "that quantizes"}
"""TABLE of what a kind of worker has, and another kind lacks."""
_PATIENCE_S = 30.0
"""A worker that died is started again meanwhile."""
Workers = Callable[[], Iterable[Mapping[str, float]]]


@dataclass
class Offers:
    """What workers offer.

    Args:
        workers: the resources of each that is there.
    """

    workers: Workers
    _missed: dict[str, float] = field(default_factory=dict)

    def missing(self, waiting: Iterable[Mapping[str, float]]) -> list[str]:
        """What jobs wait for that no worker has had for a while, each told once until one has it. Without any worker nothing
        is told: a queue may have them wait.

        Args:
            waiting: what each job asks for that nothing else keeps from running.
        """
        there = [offered for offered in self.workers() if offered.get(CHECKED, 0) > 0]
        counts: dict[str, int] = {}
        for asked in waiting if there else ():
            for name in (n for n in _KINDS if asked.get(n, 0.0) > max(w.get(n, 0.0) for w in there)):
                counts[name] = counts.get(name, 0) + 1
        now = time.monotonic()
        self._missed = {name: self._missed.get(name, now) for name in counts}
        late = [name for name, since in self._missed.items() if now - since >= _PATIENCE_S]
        self._missed |= dict.fromkeys(late, float("inf"))
        return [_words(name, counts[name]) for name in late]


def _words(name: str, count: int) -> str:
    jobs = "A job waits" if count == 1 else f"{count} jobs wait"
    way_out = "Start one, or stop the sweep: what was finished is kept."
    return f"{jobs} for a worker {_KINDS[name]}, and there is none. {way_out}"
