"""How far a build is and what is left of it, from the time that like work took here before."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ggufkit.core import durations, units
from ggufkit.core.concurrency import background
from ggufkit.core.durations import Durations, Estimate
from ggufkit.core.progress import Progress
from ggufkit.pipeline.job import Job
from ggufkit.pipeline.pace import Pace, known_pace
from ggufkit.pipeline.pieces import Piece, pieces
from ggufkit.steps.session import Session

_LOOK_S = 2.0
_LEAST = 0.05
"""Of what was to be left: a piece that takes longer than expected is not said to be over."""


def estimate(piece: Piece, known: Durations, pace: Pace) -> Estimate:
    """How long a piece takes of the whole: as like work did here, else by the machine's pace."""
    alone = known.estimate(piece.work) or pace.estimate(piece.cost)
    return replace(alone, seconds=alone.seconds / piece.at_once)


@contextlib.contextmanager
def shown(job: Job) -> Iterator[Job]:
    """The job with a display of how far all of it is; none where nothing is left to be made."""
    todo = pieces(job)
    if not todo:
        yield job
        return
    with job.reporter.step(f"Building {job.name}", len(todo)) as progress:
        outlook = Outlook(todo, progress, job.session)
        with background(outlook.look):
            yield replace(job, session=replace(job.session, finished=outlook.finished))


@dataclass
class _State:
    done: int
    left_s: float
    since: float


class Outlook:
    """Counts pieces, and tells after each, and every few seconds, what is left."""

    def __init__(self, todo: Sequence[Piece], progress: Progress, session: Session) -> None:
        self._todo = {piece.output: piece for piece in todo}
        self._total, self._progress, self._session = len(self._todo), progress, session
        self._lock = threading.Lock()
        self._state = _State(0, self._left(), time.monotonic())

    def finished(self, output: Path) -> None:
        """A result is there: made, or found to be fresh."""
        with self._lock:
            if self._todo.pop(output, None) is None:
                return
            self._state = _State(self._total - len(self._todo), self._left(), time.monotonic())
        self._tell()

    def look(self, over: threading.Event) -> None:
        """Tell it now and then, until it is over."""
        self._tell()
        while not over.wait(_LOOK_S):
            self._tell()

    def _left(self) -> float:
        known = durations.known()
        pace = known_pace(self._session, known)
        return sum(estimate(piece, known, pace).seconds for piece in self._todo.values())

    def _tell(self) -> None:
        state = self._state
        left = max(state.left_s - (time.monotonic() - state.since), _LEAST * state.left_s)
        self._progress.update(state.done, self._total, f"{units.rough(left)} left")
