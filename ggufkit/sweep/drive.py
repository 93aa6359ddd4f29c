"""The driver of a sweep: gives Dask the jobs of some cells at a time, hears how they end, and writes the journal.

What runs where and when, and again when a worker is lost, is Dask's. A scheduler that comes back empty is given all that
has not ended.
"""

from __future__ import annotations

import contextlib
import queue
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from ggufkit.core import machine
from ggufkit.core.errors import GgufkitError, Interrupted, ResourceError
from ggufkit.steps.step import Workspace
from ggufkit.sweep import graph, journal, work
from ggufkit.sweep.at_work import AtWork, cell_of
from ggufkit.sweep.course import Course
from ggufkit.sweep.journal import Journal
from ggufkit.sweep.missing import Missing
from ggufkit.sweep.records import Cell, Event, Job, Outcome
from ggufkit.sweep.station import CHECKED, TOPIC
from ggufkit.sweep.status import SCHEDULER
from ggufkit.sweep.work import TryAgain

_OF_WORKERS = ("refused", "paused", "resumed")
"""Events of a worker, not of a job: it has other versions, or its disk is full."""
_ROOM = "Make room there, and repeat the command: what was finished is kept."
_DEATHS = 8
"""A job that began so often, and whose worker died each time, is the reason. Dask counts those, too, that only waited."""
_LOOK_S = 0.5
_STRANDED_S = 5.0
"""How often is looked whether jobs wait for workers that there are none of."""
_AGAIN = 3
"""How often a job is tried anew that another try may help, or that was lost with its workers."""
_LOST = ("KilledWorker", "NoValidWorkerError")
_ALONE = ("fetch", "finish")
"""Stages of which no cell does the work of another."""


class _Ended(NamedTuple):
    """A job, and its future that is not pending any more."""

    job: str
    future: Any


class Driver:
    """Drives a sweep to its end.

    Args:
        connect: a client of Dask's whose workers are ready, anew each time.
        out: the sweep's directory, as this machine sees it.
        told: the journal.
        hear: is told every event, too.
    """

    def __init__(
        self,
        connect: Callable[[], Any],
        out: Path,
        told: Journal,
        course: Course,
        hear: Callable[[Event], None] = lambda _event: None,
    ) -> None:
        self._connect, self._out, self._journal, self._course, self._hear = connect, out, told, course, hear
        self._client: Any = None
        self._said: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self._open: dict[str, AtWork] = {}
        self._twins: dict[str, tuple[str, str]] = {}
        self._next_look = 0.0
        self._missing = Missing()
        self._name = uuid.uuid4().hex[:8]
        self.outcomes: dict[str, Outcome] = {}

    @property
    def unfinished(self) -> tuple[str, ...]:
        """The cells at work."""
        return tuple(self._open)

    @property
    def _is_connected(self) -> bool:
        return bool(self._client.status == "running")

    def drive(self, cells: Sequence[Cell]) -> Mapping[str, Outcome]:
        """Have all cells made; how each job ended, by its id.

        Raises:
            ResourceError: the scheduler was gone for too long.
            Interrupted: somebody asked to stop.
        """
        self._begin()
        waiting = list(enumerate(cells))[::-1]
        try:
            while waiting or self._open:
                while waiting and len(self._open) < self._course.window:
                    self._start(*waiting.pop())
                self._listen()
        except BaseException:
            self._note("stopped")
            raise
        finally:
            self._end()
        self._note("finished")
        return self.outcomes

    def _begin(self) -> None:
        self._client = self._connect()
        self._client.subscribe_topic(TOPIC, lambda event: self._said.put(("event", event[1])))

    def _end(self) -> None:
        """Let go of all that is still at work; its tools end."""
        with contextlib.suppress(Exception):  # the scheduler may be gone
            if self._open:
                futures = [future for one in self._open.values() for future in one.futures.values()]
                self._client.cancel(futures, force=True)
                self._client.run(work.stop, on_error="ignore")
        for one in self._open.values():
            one.lock.close()

    def _start(self, number: int, asked: Cell) -> None:
        one = AtWork(_for_workers(asked), number)
        self._open[asked.name] = one
        try:
            one.names = self._course.keys(one.cell)
            one.lock.enter_context(Workspace(self._out / asked.name).locked())
            one.given = self._course.offer(asked.request)
        except (GgufkitError, OSError) as error:
            message, hint = getattr(error, "message", str(error)), getattr(error, "hint", "") or ""
            self._take(one, Outcome(one.begin().id, "failed", message=message, hint=hint))
            return
        self._go_on(one, one.begin())

    def _go_on(self, one: AtWork, job: Job) -> None:
        """Submit a job, unless there is nothing to do for it."""
        there = one.settled(job, self._course.look)
        if there is not None:
            self._twins.setdefault(one.keys.get(job.id, ""), (one.cell.name, job.id))
            self._take(one, there)
        else:
            self._submit(one, job)

    def _submit(self, one: AtWork, job: Job) -> None:
        needs = [one.outcomes.get(name) or one.futures[name] for name in job.needs]
        at_files = job.stage == "finish" and self._course.at_files
        future = self._client.submit(
            self._course.do, job, one.cell, one.given, self._twin(one, job), *needs,
            key=f"{job.stage}-{self._name}{one.tries.get(job.id, 0)}-{job.id}", pure=False, retries=_AGAIN,
            resources={at_files: 1.0} if at_files else dict(job.resources), priority=one.priority(job),
        )  # fmt: skip
        one.futures[job.id] = future
        self._watch(job.id, future)

    def _twin(self, one: AtWork, job: Job) -> tuple[str, Any] | None:
        """A cell that asks for the same, and the same job there: how it ended, or will."""
        one.twins.pop(job.id, None)
        key = one.keys.get(job.id, "")
        cell, other = self._twins.setdefault(key, (one.cell.name, job.id))
        if not key or job.stage in _ALONE or cell == one.cell.name:
            return None
        ended = self.outcomes.get(other)
        if ended is not None:
            return (cell, ended) if ended.is_good else None
        if other not in self._open[cell].futures:
            return None
        one.twins[job.id] = other
        return (cell, self._open[cell].futures[other])

    def _watch(self, job: str, future: Any) -> None:
        future.add_done_callback(lambda ended: self._said.put(("ended", _Ended(job, ended))))

    def _listen(self) -> None:
        """Hear what was said since, or wait a moment for it. Raises Interrupted where somebody asked to stop."""
        if self._course.is_stopped():
            raise Interrupted("The sweep was asked to stop.")
        said = []
        with contextlib.suppress(queue.Empty):
            said.append(self._said.get(timeout=_LOOK_S))
            while True:
                said.append(self._said.get_nowait())
        for told in (told for kind, told in said if kind == "event"):
            self._hear_worker(told)
        ended = [told for kind, told in said if kind == "ended" and self._is_of_now(told)]
        for outcome in self._gathered([one.future for one in ended if one.future.status == "finished"]):
            self._take(self._open[cell_of(outcome.job)], outcome)
        for job, future in ended:
            if not self._is_of_now(_Ended(job, future)):
                continue
            if future.status == "error":
                self._erred(self._open[cell_of(job)], job, future)
            elif future.status == "pending":
                self._watch(job, future)
        self._look_for_stranded()
        if not self._is_connected or any(one.future.status in ("cancelled", "lost") for one in ended):
            self._recover()

    def _is_of_now(self, ended: _Ended) -> bool:
        """Whether a future is the one that its job has now."""
        one = self._open.get(cell_of(ended.job))
        return one is not None and one.futures.get(ended.job) is ended.future and ended.job not in one.outcomes

    def _gathered(self, futures: Sequence[Any]) -> list[Outcome]:
        """What jobs returned; of those whose worker is lost since, nothing."""
        with contextlib.suppress(OSError, TimeoutError, CancelledError):  # no scheduler: they are asked for again
            return self._client.gather(list(futures), errors="skip") if futures else []
        return []

    def _take(self, one: AtWork, outcome: Outcome) -> None:
        """A job ended: plan what it tells of, and let the cell go when all of it is there."""
        if outcome.job in one.outcomes:
            return
        if one.jobs[outcome.job].stage == "finish" and outcome.is_good:
            outcome = self._brought(one, outcome)
        self.outcomes[outcome.job] = outcome = one.end(outcome)
        self._tell(journal.ended(outcome))
        if one.jobs[outcome.job].stage == "fetch" and outcome.is_good:
            planned = one.plan(outcome.facts, on_gpu=self._course.on_gpu)
            self._tell(journal.planned(one.cell.name, one.jobs.values()))
            for job in planned:
                self._go_on(one, job)
        if one.is_over and self._open.pop(one.cell.name, None) is not None:
            one.lock.close()

    def _brought(self, one: AtWork, finished: Outcome) -> Outcome:
        """Tables and reports where the sweep's directory is, should they have been written elsewhere."""
        try:
            self._course.bring(one.cell.name, finished.files)
        except GgufkitError as error:
            return replace(finished, state="failed", message=error.message, hint=error.hint or "")
        return finished

    def _erred(self, one: AtWork, job: str, future: Any) -> None:
        """A job was not done: it failed too often, its workers died, or one that it needs did not come about."""
        if job in one.outcomes:
            return
        waited = [name for name in one.jobs[job].needs if name in one.futures and name not in one.outcomes]
        if any(one.futures[name].status == "error" for name in waited):
            return  # that one is heard, and has this one tried again or left out
        if self._failed_with_twin(one, job):
            self._again(one, [job, *one.behind(job)])
            return
        error = future.exception()
        if type(error).__name__ in _LOST and one.begun.get(job, 0) < _DEATHS:
            self._note("retried", job, str(error))
            self._again(one, [job, *one.behind(job)])
            return
        self._take(one, _of_error(job, error))
        for left in list(one.behind(job)):
            if graph.is_in_vain(left, job):
                self._take(one, Outcome(left, "skipped", because=job))
            else:
                self._again(one, [left])

    def _failed_with_twin(self, one: AtWork, job: str) -> bool:
        """Whether a job has no error of its own, but that of its twin, which is heard before it."""
        twin = one.twins.pop(job, "")
        other = self._open.get(cell_of(twin))
        if other is not None and twin not in other.outcomes and other.futures[twin].status == "error":
            self._erred(other, twin, other.futures[twin])
        return bool(twin) and not (twin in self.outcomes and self.outcomes[twin].is_good)

    def _again(self, one: AtWork, jobs: Sequence[str]) -> None:
        """Submit jobs anew."""
        for job in jobs:
            if job not in one.outcomes:
                one.tries[job] = one.tries.get(job, 0) + 1
                self._submit(one, one.jobs[job])

    def _recover(self) -> None:
        """The scheduler is gone: connect anew as soon as there is one, and give it all that has not ended. A new one knows
        neither what workers must have, nor the worker beside the driver's files."""
        self._note("lost", text=SCHEDULER)
        until = time.monotonic() + self._course.patience_s
        while True:
            try:
                self._begin()
                break
            except (GgufkitError, OSError, TimeoutError) as error:
                if time.monotonic() > until:
                    hint = "Start it again, and repeat the command: what was finished is kept."
                    raise ResourceError("The scheduler is gone, and did not come back.", hint=hint) from error
            time.sleep(_LOOK_S)
        for one in self._open.values():
            one.futures.clear()
        for one in self._open.values():
            self._again(one, [job.id for job in one.left])

    def _hear_worker(self, event: Mapping[str, Any]) -> None:
        kind, job, text = (str(event.get(key, "")) for key in ("kind", "job", "text"))
        if kind in _OF_WORKERS:
            self._note(kind, text=f"{text} {event.get('hint', '')}".strip())
            if kind != "resumed" and self._is_connected and not self._offered():
                raise ResourceError(f"No worker is left. {text}", hint=str(event.get("hint") or _ROOM))
        elif cell_of(job) not in self._open:
            return
        elif kind == "started":
            begun = self._open[cell_of(job)].begun
            begun[job] = begun.get(job, 0) + 1
            self._note("started", job, str(event.get("name", "")))
        elif kind == "warned":
            self._note("warned", job, text)
        elif kind == "progress":  # for who watches; too much for the journal
            self._hear(Event(time.time(), "progress", job, text=_far(event)))

    def _offered(self) -> list[Mapping[str, float]]:
        """What each worker offers that takes jobs."""
        known = self._client.scheduler_info(n_workers=-1)["workers"].values()
        return [w["resources"] for w in known if w["status"] == "running" and w["resources"].get(CHECKED, 0)]

    def _look_for_stranded(self) -> None:
        """Tell what waits for a kind of worker that there is none of."""
        if time.monotonic() < self._next_look or not self._is_connected:
            return
        self._next_look = time.monotonic() + _STRANDED_S
        waiting = [job.resources for one in self._open.values() for job in one.waiting]
        for text in self._missing.told(self._offered(), waiting):
            self._note("warned", text=text)

    def _note(self, kind: str, job: str = "", text: str = "") -> None:
        self._tell(Event(time.time(), kind, job, text=text))

    def _tell(self, event: Event) -> None:
        self._hear(self._journal.append(event))


def _far(event: Mapping[str, Any]) -> str:
    """How far a job is, as it tells: "12/60 chunks"."""
    total, note = event.get("total"), str(event.get("note", ""))
    return f"{event.get('done', 0):.0f}/{total:.0f} {note}".rstrip() if total else note


def _for_workers(cell: Cell) -> Cell:
    """The cell as workers get it: with their own number of threads where nothing else was asked for."""
    run = cell.request.run
    asked = 0 if run.threads == machine.physical_cores() else run.threads
    told = replace(run, force=False, explain=False)
    return replace(cell, request=replace(cell.request, run=told), threads=cell.threads or asked)


def _of_error(job: str, error: BaseException) -> Outcome:
    if isinstance(error, TryAgain):
        return Outcome(job, "failed", message=error.message, hint=error.hint)
    if type(error).__name__ == "KilledWorker":
        hint = "The system may have run out of memory: look into its log, or give its workers more."
        return Outcome(job, "failed", message="Every worker that tried it died.", hint=hint)
    hint = "This is a bug in ggufkit, or its workers have another Python."
    return Outcome(job, "failed", message=f"{type(error).__name__}: {error}", hint=hint)
