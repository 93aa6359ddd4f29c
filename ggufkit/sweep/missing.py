"""What jobs of a sweep wait for that no worker has. Pure but for the time."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from ggufkit.sweep.station import CPU, GPU

_ANY = ""
_KINDS = {GPU: "for a worker with a GPU", CPU: "for a worker that quantizes", _ANY: "for workers"}
"""TABLE of what is waited for, by the resource that only some workers have."""
_PATIENCE_S = 30.0
"""A worker that died is started again meanwhile."""


@dataclass
class Missing:
    """The kinds of workers that are missing, since when; which of them have been told."""

    _since: dict[str, float] = field(default_factory=dict)

    def told(self, there: Collection[Mapping[str, float]], waiting: Collection[Mapping[str, float]]) -> list[str]:
        """What jobs wait for that no worker has had for a while, each told once until one has it.

        Args:
            there: what each worker offers that takes jobs.
            waiting: what each job asks for that nothing else keeps from running.
        """
        counts: dict[str, int] = {}
        if not there and waiting:
            counts[_ANY] = len(waiting)
        for asked in waiting if there else ():
            for name in (n for n in _KINDS if asked.get(n, 0.0) > max(w.get(n, 0.0) for w in there)):
                counts[name] = counts.get(name, 0) + 1
        now = time.monotonic()
        self._since = {name: self._since.get(name, now) for name in counts}
        late = [name for name, since in self._since.items() if now - since >= _PATIENCE_S]
        self._since |= dict.fromkeys(late, float("inf"))
        return [_words(name, counts[name]) for name in late]


def _words(name: str, count: int) -> str:
    jobs = "A job waits" if count == 1 else f"{count} jobs wait"
    way_out = "Start one, or stop the sweep: what was finished is kept."
    return f"{jobs} {_KINDS[name]}, and none takes jobs. {way_out}"
