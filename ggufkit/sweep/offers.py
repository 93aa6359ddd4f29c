"""What the workers of a sweep offer, and what a job can ask of them so that one of them can take it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from ggufkit.core.units import size
from ggufkit.sweep.station import CHECKED, CPU, DISK, GPU, MEMORY

_LOOK_S = 5.0
_PREFERRED = {MEMORY: "memory", DISK: "disk"}
"""TABLE of what is only foreseen, with what it is called: where no worker has so much, the one with the most may try."""
_KINDS = {GPU: "with a GPU", CPU: "that quantizes"}
"""TABLE of what a kind of worker has, and another kind lacks."""
_PATIENCE_S = 30.0
"""A worker that died is started again meanwhile."""
Workers = Callable[[], Iterable[Mapping[str, float]]]


@dataclass
class Offers:
    """What workers offer, as it was some seconds ago.

    Args:
        workers: the resources of each that takes jobs.
    """

    workers: Workers
    _most: dict[str, float] = field(default_factory=dict)
    _looked: float = float("-inf")
    _missed: dict[str, float] = field(default_factory=dict)

    @property
    def most(self) -> Mapping[str, float]:
        """Of each resource what the worker has that has most of it; empty where there is no worker."""
        if time.monotonic() - self._looked >= _LOOK_S:
            found: dict[str, float] = {}
            for offered in self.workers():
                if offered.get(CHECKED, 0) > 0:
                    found |= {name: max(amount, found.get(name, 0.0)) for name, amount in offered.items()}
            self._most, self._looked = found, time.monotonic()
        return self._most

    def asked(self, resources: Mapping[str, float]) -> dict[str, float]:
        """What is asked for a job: no more memory and disk than a worker has, as they are only foreseen."""
        most = self.most
        if not most:
            return dict(resources)
        fitting = {
            n: min(amount, most.get(n, 0.0)) if n in _PREFERRED else amount for n, amount in resources.items()
        }
        return {name: amount for name, amount in fitting.items() if amount > 0}

    def short(self, resources: Mapping[str, float]) -> str:
        """What no worker has enough of for a job, as a warning; "" where one has, or where there is no worker."""
        most = self.most
        lacking = [n for n in _PREFERRED if most and resources.get(n, 0.0) > most.get(n, 0.0)]
        told = [
            f"{size(int(resources[n]))} of {_PREFERRED[n]}, of which no worker has more than {size(int(most.get(n, 0)))}"
            for n in lacking
        ]
        return f"A job is foreseen to need {' and '.join(told)}: it is tried there." if told else ""

    def is_beyond(self, asked: Mapping[str, float]) -> bool:
        """Whether a job waits for memory or disk that the worker had which is gone."""
        most = self.most
        return bool(most) and any(asked.get(name, 0.0) > most.get(name, 0.0) for name in _PREFERRED)

    def missing(self, waiting: Iterable[Mapping[str, float]]) -> list[str]:
        """What jobs wait for that no worker has had for a while, each told once until one has it.

        Args:
            waiting: what was asked for each job that nothing else keeps from running.
        """
        most, now = self.most, time.monotonic()
        counts: dict[str, int] = {}
        for asked in waiting if most else ():
            for name in (n for n in _KINDS if asked.get(n, 0.0) > most.get(n, 0.0)):
                counts[name] = counts.get(name, 0) + 1
        self._missed = {name: self._missed.get(name, now) for name in counts}
        late = [name for name, since in self._missed.items() if now - since >= _PATIENCE_S]
        self._missed |= dict.fromkeys(late, float("inf"))
        return [_words(name, counts[name]) for name in late]


def _words(name: str, count: int) -> str:
    jobs = "A job waits" if count == 1 else f"{count} jobs wait"
    way_out = "Start one, or stop the sweep: what was finished is kept."
    return f"{jobs} for a worker {_KINDS[name]}, and there is none. {way_out}"
