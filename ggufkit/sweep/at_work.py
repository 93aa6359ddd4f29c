"""A cell at work: its jobs, which of them have ended and how, and which there is nothing to do for. Pure but for a lock."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

from ggufkit.sweep import graph
from ggufkit.sweep.facts import Facts
from ggufkit.sweep.inputs import Given
from ggufkit.sweep.keys import Keys
from ggufkit.sweep.records import STAGES, Cell, Job, Outcome

Look = Callable[[str, str], Outcome | None]
"""By a job's id and its key: how it ended before, if nothing is to be done for it."""


@dataclass
class AtWork:
    """A cell at work.

    Args:
        number: its place in the sweep: those that come before it go first.
        given: files that its request names, for workers that lack them.
        lock: ends what holds its directory.
        futures: of jobs that were submitted, the latest of each.
        twins: of jobs that wait for one of another cell, which that is.
        tries, begun: how often jobs were submitted anew, and how often workers began them.
    """

    cell: Cell
    number: int
    names: Keys | None = None
    given: tuple[Given, ...] = ()
    lock: ExitStack = field(default_factory=ExitStack)
    jobs: dict[str, Job] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    futures: dict[str, Any] = field(default_factory=dict)
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    twins: dict[str, str] = field(default_factory=dict)
    tries: dict[str, int] = field(default_factory=dict)
    begun: dict[str, int] = field(default_factory=dict)

    @property
    def is_over(self) -> bool:
        """Whether all that is known of it has ended."""
        return len(self.outcomes) == len(self.jobs)

    @property
    def left(self) -> list[Job]:
        """The jobs that have not ended, each behind those that it needs."""
        return [job for job in self.jobs.values() if job.id not in self.outcomes]

    @property
    def waiting(self) -> list[Job]:
        """The jobs that have not ended, and for which nothing is left to be made."""
        return [job for job in self.left if self.outcomes.keys() >= set(job.needs)]

    def behind(self, job: str) -> Iterator[str]:
        """The jobs that need a job, or one that needs it."""
        reached = {job}
        for one in self.jobs.values():
            if not reached.isdisjoint(one.needs):
                reached.add(one.id)
                yield one.id

    def priority(self, job: Job) -> int:
        """Among all jobs, higher ones first: models are finished one after the other."""
        return -(self.number * len(STAGES) + STAGES.index(job.stage))

    def begin(self) -> Job:
        """The first job."""
        job = graph.fetch(self.cell)
        self.jobs[job.id] = job
        if self.names is not None:
            self.keys[job.id] = self.names.fetch()
        return job

    def plan(self, told: Mapping[str, Any], *, on_gpu: bool) -> list[Job]:
        """All other jobs, by what the first one told."""
        planned = graph.jobs(self.cell, Facts.from_json(told), on_gpu=on_gpu)
        for job in planned:
            self.jobs[job.id] = job
            if self.names is not None:
                self.keys[job.id] = self.names.job(job, self.keys)
        return planned

    def end(self, outcome: Outcome) -> Outcome:
        """Note how a job ended, with its key."""
        self.outcomes[outcome.job] = replace(outcome, key=self.keys.get(outcome.job, ""))
        return self.outcomes[outcome.job]

    def settled(self, job: Job, look: Look) -> Outcome | None:
        """How a job ended before, if there is nothing to do for it; what was made anew is made anew from there on."""
        needs = [self.outcomes.get(name) for name in job.needs if "|fetch|" not in name]
        if any(one is None or one.state != "fresh" for one in needs):
            return None
        return look(job.id, self.keys.get(job.id, ""))


def cell_of(job: str) -> str:
    """The cell of a job, by its id."""
    return job.partition("|")[0]
