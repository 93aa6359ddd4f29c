"""How far a sweep is: models by stages, what runs, what failed, how fast it goes and what is left. Pure.

A `Board` hears the events of a journal one after the other: the driver's as they happen, or all that a file holds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from ggufkit.sweep import journal
from ggufkit.sweep.journal import Driver
from ggufkit.sweep.records import STAGES, Event, Outcome

_ENDS = ("stopped", "finished")
SCHEDULER = "scheduler"
"""What is lost when it is no worker."""
_FIRST = STAGES[0]
"""The stage that tells which jobs a model has besides."""


@dataclass(frozen=True)
class Running:
    """A job at work: its id, who has it, since when by the driver's clock, and how far it is: "12/60 chunks"."""

    job: str
    worker: str
    since: float
    far: str = ""


@dataclass
class Tally:
    """Jobs of one stage of one cell."""

    planned: int = 0
    ended: Counter[str] = field(default_factory=Counter)
    running: int = 0

    @property
    def done(self) -> int:
        """How many have a result."""
        return self.ended["done"] + self.ended["fresh"]

    @property
    def failed(self) -> int:
        """How many have none and will get none: they failed, or what they need did."""
        return self.ended["failed"] + self.ended["skipped"]

    @property
    def total(self) -> int:
        """How many there are, as far as is known."""
        return max(self.planned, self.done + self.failed + self.running)

    @property
    def left(self) -> int:
        """How many have not ended."""
        return self.total - self.done - self.failed


@dataclass(frozen=True)
class Line:
    """A cell's row: its stages, those without jobs left out."""

    cell: str
    stages: Mapping[str, Tally]

    @cached_property
    def whole(self) -> Tally:
        """All of its stages together."""
        return _sum(self.stages.values())

    @property
    def is_done(self) -> bool:
        """Whether all is there."""
        return self.whole.left == 0 and not self.whole.failed

    @property
    def is_waiting(self) -> bool:
        """Whether nothing of it began."""
        whole = self.whole
        return not (whole.running or whole.ended)


class Board:
    """What is known of a sweep after the events so far."""

    def __init__(self, events: Iterable[Event] = ()) -> None:
        self._begin()
        self.driver = Driver("", 0)
        self.started = self.latest = 0.0
        self.end = ""
        self._heard: Mapping[str, Callable[[Event], None]] = {
            "sweep": self._take_over,
            "planned": self._plan,
            "started": self._start,
            "progress": self._move,
            "ended": self._end,
            "retried": self._retry,
            "warned": self._warn,
            "refused": self._warn,
            "paused": self._warn,
            "lost": self._lose,
            **dict.fromkeys(_ENDS, self._close),
        }
        for event in events:
            self.hear(event)

    def _begin(self) -> None:
        self._cells: dict[str, dict[str, Tally]] = {}
        self._running: dict[str, Running] = {}
        self._outcomes: dict[str, Outcome] = {}
        self._seconds: dict[str, list[float]] = {}
        self.lost: list[str] = []
        self.retried = 0
        self.warned: dict[str, list[str]] = {}

    def hear(self, event: Event) -> None:
        """Take in an event."""
        self.latest = event.at
        if event.kind in self._heard:
            self._heard[event.kind](event)

    def _take_over(self, event: Event) -> None:
        self._begin()
        self.driver, self.started, self.end = Driver.of(event), event.at, ""

    def _start(self, event: Event) -> None:
        self._stop_running(event.job)
        self._running[event.job] = Running(event.job, event.text, event.at)
        self._tally(event.job).running += 1

    def _move(self, event: Event) -> None:
        if (job := self._running.get(event.job)) is not None:
            self._running[event.job] = replace(job, far=event.text)

    def _end(self, event: Event) -> None:
        if event.outcome is not None:
            self._take(event.outcome)

    def _retry(self, event: Event) -> None:
        self.retried += 1
        self._stop_running(event.job)

    def _warn(self, event: Event) -> None:
        self.warned.setdefault(event.text, []).append(event.job)

    def _lose(self, event: Event) -> None:
        """Nothing runs on a worker that is gone; without a scheduler nothing runs at all."""
        self.lost.append(event.text)
        for job in [one.job for one in self._running.values() if event.text in (one.worker, SCHEDULER)]:
            self._stop_running(job)

    def _close(self, event: Event) -> None:
        self.end = event.kind
        self.halt()

    def halt(self) -> None:
        """Nobody works on it any more: no job runs, and the dashboard is gone with the driver."""
        self.driver = replace(self.driver, dashboard="")
        for job in list(self._running):
            self._stop_running(job)

    def _plan(self, event: Event) -> None:
        stages = self._cells.setdefault(event.job, {})
        for stage, count in journal.planned_stages(event).items():
            stages.setdefault(stage, Tally()).planned = count

    def _take(self, outcome: Outcome) -> None:
        self._stop_running(outcome.job)
        tally, before = self._tally(outcome.job), self._outcomes.get(outcome.job)
        if before is not None:
            tally.ended[before.state] -= 1
        tally.ended[outcome.state] += 1
        self._outcomes[outcome.job] = outcome
        if outcome.state == "done":
            self._seconds.setdefault(stage_of(outcome.job), []).append(outcome.seconds)

    def _stop_running(self, job: str) -> None:
        if self._running.pop(job, None) is not None:
            self._tally(job).running -= 1

    def _tally(self, job: str) -> Tally:
        return self._cells.setdefault(cell_of(job), {}).setdefault(stage_of(job), Tally())

    @property
    def lines(self) -> list[Line]:
        """A row for each cell, in the order in which they are planned."""
        return [
            Line(cell, {s: stages[s] for s in STAGES if s in stages and stages[s].total})
            for cell, stages in self._cells.items()
        ]

    @property
    def stages(self) -> list[str]:
        """Those that have jobs."""
        there = {stage for stages in self._cells.values() for stage, tally in stages.items() if tally.total}
        return [stage for stage in STAGES if stage in there]

    @property
    def whole(self) -> Tally:
        """All jobs together."""
        return _sum(tally for stages in self._cells.values() for tally in stages.values())

    @property
    def is_planned(self) -> bool:
        """Whether all jobs are known: those of a model are once it is there."""
        return all(_is_known(stages) for stages in self._cells.values())

    @property
    def running(self) -> list[Running]:
        """The jobs at work, those of the longest time first."""
        return sorted(self._running.values(), key=lambda job: job.since)

    @property
    def failures(self) -> list[Outcome]:
        """What failed itself, in the order in which it did."""
        return [outcome for outcome in self._outcomes.values() if outcome.state == "failed"]

    @property
    def skipped(self) -> Counter[str]:
        """How many jobs were not done because one failed, by the id of that."""
        return Counter(outcome.because for outcome in self._outcomes.values() if outcome.state == "skipped")

    def seconds_left(self, now: float) -> float | None:
        """What is left, by the mean time of each stage's jobs here and how many ran at once so far; None as long as no
        job tells."""
        worked = [seconds for found in self._seconds.values() for seconds in found]
        gone = now - self.started
        if not worked or gone <= 0 or not sum(worked):
            return None
        any_mean = sum(worked) / len(worked)
        means = {stage: sum(found) / len(found) for stage, found in self._seconds.items()}
        left = sum(n * means.get(stage, any_mean) for stage, n in self._left())
        begun = {job.job: now - job.since for job in self._running.values()}
        left -= sum(min(seconds, means.get(stage_of(job), any_mean)) for job, seconds in begun.items())
        at_once = max((sum(worked) + sum(begun.values())) / gone, 0.1)
        return max(left, 0.0) / at_once

    def _left(self) -> Iterator[tuple[str, float]]:
        """Jobs that have not ended, by stage; of cells that are not planned yet as many as the others have."""
        known = [stages for stages in self._cells.values() if set(stages) - {_FIRST}]
        unknown = sum(not _is_known(stages) for stages in self._cells.values())
        for stage in self.stages:
            found = [stages[stage] for stages in self._cells.values() if stage in stages]
            foreseen = sum(s[stage].total for s in known if stage in s) / len(known) if known else 0
            yield stage, sum(tally.left for tally in found) + (unknown * foreseen if stage != _FIRST else 0)


def cell_of(job: str) -> str:
    """The cell of a job's id."""
    return job.partition("|")[0]


def stage_of(job: str) -> str:
    """The stage of a job's id."""
    return job.split("|")[1] if job.count("|") > 1 else ""


def words(job: str) -> str:
    """A job's id as people read it: "qwen2.5-0.5b: quantize imatrix Q4_K_M"."""
    cell, *what = job.split("|")
    return f"{cell}: {' '.join(filter(None, what))}"


def _is_known(stages: Mapping[str, Tally]) -> bool:
    """Whether a cell's jobs are planned, or never will be."""
    return bool(set(stages) - {_FIRST}) or _sum(stages.values()).failed > 0


def _sum(tallies: Iterable[Tally]) -> Tally:
    whole = Tally()
    for tally in tallies:
        whole.planned += tally.total
        for state, count in tally.ended.items():
            whole.ended[state] += count
        whole.running += tally.running
    return whole
