"""What flows between a sweep's driver, its workers and its journal. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ggufkit.core.records import Json
from ggufkit.request import BuildRequest

STAGES = ("fetch", "base", "scale", "matrix", "quantize", "refine", "measure", "speak", "tasks", "bench", "finish")
"""In the order in which a model goes through them."""


@dataclass(frozen=True)
class Cell:
    """A model under a profile: one results directory.

    Args:
        model: what its directory is called.
        profile: "" where a sweep has none.
        request: what `build` is asked for; where it works is said by who runs it.
        only: of the request's variants and types those pairs that are made, as they were asked for; None for all.
        threads: for the tools, 0 for as many as a worker has.
    """

    model: str
    profile: str
    request: BuildRequest
    only: frozenset[tuple[str, str]] | None = None
    threads: int = 0

    @property
    def name(self) -> str:
        """Its directory below the sweep's."""
        return f"{self.profile}/{self.model}" if self.profile else self.model


@dataclass(frozen=True)
class Job:
    """One thing that is made or measured for a cell.

    Args:
        cell: the cell's name.
        stage: of `STAGES`.
        variant, type: of what it makes or measures; "" for what several share, and for the base.
        needs: ids of jobs whose results it reads.
        resources: what it takes of a worker, see `station`.
    """

    cell: str
    stage: str
    variant: str = ""
    type: str = ""
    needs: tuple[str, ...] = ()
    resources: Mapping[str, float] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """Its name in the graph, in the journal and in the store."""
        return f"{self.cell}|{self.stage}|{self.variant}|{self.type}"


@dataclass(frozen=True)
class StoredFile:
    """A file of a cell: its path below the cell's directory, with "/" on every machine."""

    name: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class Outcome:
    """How a job ended.

    Args:
        state: "done", "fresh" if nothing was to be done, "failed", or "skipped" if what it needs failed.
        worker: the name of the worker, "" where none was asked.
        seconds: wall time of the job itself, transfers among them.
        files: what came of it.
        message, hint: why it failed, as a person should read it.
        because: the job that failed first, where this one was skipped.
        facts: what later jobs are planned with, as "n_params".
        key: a short name of all that decided it: where it is the same, and its files are there, nothing is to be done.
    """

    job: str
    state: str
    worker: str = ""
    seconds: float = 0.0
    files: tuple[StoredFile, ...] = ()
    message: str = ""
    hint: str = ""
    because: str = ""
    facts: Mapping[str, Json] = field(default_factory=dict)
    key: str = ""

    @property
    def is_good(self) -> bool:
        """Whether what the job was for is there."""
        return self.state in ("done", "fresh")


@dataclass(frozen=True)
class Event:
    """A line of the journal.

    Args:
        at: seconds since 1970 by the driver's clock; those of workers are not heeded.
        kind: "sweep" (it began), "planned", "started", "ended", "retried", "warned", "lost" (a worker, or the scheduler),
            "refused" and "paused" and "resumed" (a worker), "stopped", "finished"; "progress" is for who watches, and in
            no journal.
        job: whose, "" where it is the sweep's.
        outcome: of an ended job.
        text: what else there is to say, as a worker's name or a reason.
    """

    at: float
    kind: str
    job: str = ""
    outcome: Outcome | None = None
    text: str = ""
