"""A job at work, in a worker's process: the one thing that `build` would do, by what `build` does it with."""

from __future__ import annotations

import contextlib
import glob
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from filelock import FileLock

from ggufkit.core import oserrors, process
from ggufkit.core.errors import Interrupted, ResourceError, ToolKilled
from ggufkit.core.manifest import PARTIAL, open_manifest, read_manifest
from ggufkit.core.part_names import part_name
from ggufkit.core.paths import link_or_copy
from ggufkit.core.progress import Reporter
from ggufkit.core.records import GgufFile, Json, QuantType
from ggufkit.core.units import GIB
from ggufkit.core.variants import Scaling, Variant
from ggufkit.hub.listing import HubUnreachable
from ggufkit.llama.gguf import read_gguf, read_header
from ggufkit.measure.kept_logits import KeptLogits
from ggufkit.pipeline import build, measuring, plan
from ggufkit.pipeline import job as looked_up
from ggufkit.pipeline.artifacts import Artifacts
from ggufkit.pipeline.lookup import prepare
from ggufkit.steps.session import Session
from ggufkit.steps.step import PRIVATE, Result
from ggufkit.sweep import done, facts, graph, station, toolchains
from ggufkit.sweep.inputs import Given, localized
from ggufkit.sweep.job_log import JobLog
from ggufkit.sweep.records import Cell, Job, Outcome
from ggufkit.sweep.station import Station
from ggufkit.sweep.stores import Store, StoreError

Twin = tuple[str, Outcome]
_PASSING = (HubUnreachable, ToolKilled, ResourceError, StoreError, Interrupted)
"""What may go better another time, or on another machine."""
_KEPT_CELLS = 4
_ROOM = GIB
"""Bytes that a worker has free at least that takes jobs, once it had not enough for one."""
_LOGS = "logs/"
"""No job reads what another one's tools said; and several write a log of one name."""


class TryAgain(Exception):
    """A job failed for a reason that may be gone the next time."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.message, self.hint = message, hint


def run(job: Job, cell: Cell, given: Sequence[Given], twin: Twin | None, *needs: Outcome) -> Outcome:
    """Do a job on this worker, and tell how it ended; what fails for good is told, not raised.

    Args:
        cell: that the job is of.
        given: files that its request names, which other machines than the driver's may lack.
        twin: a cell that asks for the same in the same words, and how the job ended there.
        needs: how the jobs ended that it needs.

    Raises:
        TryAgain: another try may help.
    """
    here, started = station.current(), time.monotonic()
    missed = (one for one in needs if not one.is_good and graph.is_in_vain(job.id, one.job))
    if (bad := next(missed, None)) is not None:
        return Outcome(job.id, "skipped", here.name, because=bad.because or bad.job)
    if (before := done.noted(job.id, here)) is not None:
        return before
    process.go_on()
    here.tell({"kind": "started", "job": job.id, "name": here.name})
    with JobLog(job.id, here) as log:
        try:
            _borrow(cell, twin, here.store)
            ended = _do(job, _Asked(cell, tuple(given)), needs, here, log)
        except Exception as error:
            ended = _failed(job, error, log, here.store.place(cell.name))
    ended = replace(ended, worker=here.name, seconds=round(time.monotonic() - started, 3))
    if ended.is_good:
        done.note(ended, here)
    return ended


def stop() -> None:
    """End the tools of the jobs that are at work in this process; the next job starts tools again."""
    process.stop_all()


def _failed(job: Job, error: Exception, log: JobLog, place: Path) -> Outcome:
    """How a job ended that raised an error; a worker without room takes no others. Raises TryAgain."""
    known = oserrors.explained(error)
    message = known.message if known is not None else f"{type(error).__name__}: {error}"
    hint = (
        (known.hint or "") if known is not None else "This is a bug in ggufkit; the job's log has its traceback."
    )
    log.end(message, hint, None if known is not None else error)
    if isinstance(known, ResourceError):
        station.current().pause(place, _ROOM)
    if isinstance(known, _PASSING):
        raise TryAgain(message, hint) from error
    return Outcome(job.id, "failed", message=message, hint=hint)


def _do(job: Job, asked: _Asked, needs: Sequence[Outcome], here: Station, reporter: Reporter) -> Outcome:
    place, cell = here.store.place(asked.cell.name), asked.cell
    lock = place / PRIVATE / "jobs" / f"{'.'.join(filter(None, (job.stage, job.variant, job.type)))}.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    for one in needs:
        here.store.pull(cell.name, [file for file in one.files if not file.name.startswith(_LOGS)])
    with FileLock(lock):  # a worker that nobody hears any more may still be at work on the same
        began = time.time()
        task = _Task(job, needs, _begin(asked, here, reporter))
        told = _DOING[job.stage](task)
        files = here.store.push(cell.name, task.files(began, is_shared=here.store.shared))
    return Outcome(job.id, "fresh" if task.is_fresh else "done", files=files, facts=told)


def _borrow(cell: Cell, twin: Twin | None, store: Store) -> None:
    """Have the files of a twin in the cell's place, too; the recipes of the steps tell whether they are right."""
    if twin is None:
        return
    other, made = twin
    files = [file for file in made.files if not file.name.startswith(_LOGS)]
    store.pull(other, files)
    for file in files:
        source, target = store.place(other) / file.name, store.place(cell.name) / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            link_or_copy(source, target)


@dataclass(frozen=True)
class _Asked:
    """A cell, and the files that its request names."""

    cell: Cell
    given: tuple[Given, ...]


@dataclass(frozen=True)
class _Listening(Session):
    """A session that remembers its results, in the order in which they were made or found."""

    heard: list[Result] = field(default_factory=list)

    def ensure(self, *given: Any, **how: Any) -> Result:
        """See `Session.ensure`."""
        result = super().ensure(*given, **how)
        self.heard.append(result)
        return result


@dataclass(frozen=True)
class _Task:
    """A job at work: what it needs, and the cell as `build` sees it."""

    job: Job
    needs: Sequence[Outcome]
    build: looked_up.Job

    @property
    def session(self) -> _Listening:
        session = self.build.session
        assert isinstance(session, _Listening)
        return session

    @property
    def is_fresh(self) -> bool:
        """Whether all was there already."""
        heard = self.session.heard
        return bool(heard) and all(result.fresh for result in heard)

    @property
    def scaling(self) -> Scaling | None:
        """What the base is scaled for that the job makes, or is about."""
        return Scaling.from_label(self.job.variant) if self.job.variant else None

    @property
    def target(self) -> tuple[Variant, QuantType]:
        """The file that the job makes, or measures."""
        named = (self.job.variant, self.job.type)
        return next((v, t) for v, t in self.build.targets if (v.name, t.name) == named)

    def base(self) -> GgufFile:
        return _file(self.build.base_output)

    def made(self) -> list[Path]:
        """The files besides the base that are there of those that the job needs."""
        good = [one.job.split("|") for one in self.needs if one.is_good]
        named = {(variant, kind) for _, stage, variant, kind in good if stage in ("quantize", "refine")}
        return [self.build.output(v, t.name) for v, t in self.build.targets if (v.name, t.name) in named]

    def measured(self) -> list[GgufFile]:
        """The files that the job measures besides the base."""
        return [_file(path) for path in self.made()]

    def files(self, began: float, *, is_shared: bool) -> list[Path]:
        """What came of the job, in the cell's directory.

        Args:
            began: when it did, by the clock of this machine's file system, more or less.
            is_shared: whatever else was written there is there for all.
        """
        root = self.build.out
        known = {file.name for one in self.needs for file in one.files}
        results = [path for made in self.session.heard for path in _with_companions(made.path)]
        every = dict.fromkeys([*results, *([] if is_shared else _written(root, began))])
        new = [path for path in every if path.relative_to(root).as_posix() not in known]
        return [path for path in new if not path.name.endswith((PARTIAL, "lock"))]


def _with_companions(path: Path) -> list[Path]:
    """What a step made, with its manifest and what else it wrote beside it; of a GGUF in parts all of them."""
    parts = read_header(path).files if part_name(path) is not None else [path]
    return [*parts, *path.parent.glob(f"{glob.escape(path.stem)}.*")]


def _written(root: Path, began: float) -> list[Path]:
    """All that was written since."""
    return [path for path in root.rglob("*") if path.is_file() and path.stat().st_mtime >= began - 1]


def _file(path: Path) -> GgufFile:
    """A GGUF that a job made. Raises InputError where its manifest is missing."""
    return read_gguf(path, str(open_manifest(path).output["sha256"]))


def _result(path: Path) -> Result:
    return Result(path, open_manifest(path), True, "made before")


class _Cells:
    """The cells that this process looked up last: to look one up takes as long as a small job."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: OrderedDict[tuple[_Asked, str, str], looked_up.Job] = OrderedDict()

    def get(self, asked: _Asked, here: Station, reporter: Reporter) -> looked_up.Job:
        """A cell as `build` sees it. Raises GgufkitError as `prepare` does."""
        with self._lock:
            key = (asked, here.name, here.run)  # the next sweep may have another store, or a newer model
            if key not in self._known:
                self._known[key] = _looked_up(asked, here, reporter)
            self._known.move_to_end(key)
            while len(self._known) > _KEPT_CELLS:
                self._known.popitem(last=False)
            return self._known[key]


def _looked_up(asked: _Asked, here: Station, reporter: Reporter) -> looked_up.Job:
    cell, request = asked.cell, localized(asked.cell.request, asked.given, here.store)
    run = replace(request.run, threads=cell.threads or here.threads)
    toolchains.provide(run.backend, here.store, reporter, here.alone)
    request = replace(request, out=here.store.place(cell.name), run=run)
    return plan.with_fitting(prepare(request, reporter, only=cell.only))


_cells = _Cells()
_logits: dict[str, KeptLogits] = {}
"""Base logits by the names of this process's workers."""


def _begin(asked: _Asked, here: Station, reporter: Reporter) -> looked_up.Job:
    """The cell with a session of its own for one job."""
    found = _cells.get(asked, here, reporter)
    session = found.session
    where = replace(session.workspace, own_scratch=here.scratch)
    kept = _logits.setdefault(here.name, KeptLogits(here.scratch / "logits"))
    return replace(found, session=_Listening(session.tools, where, reporter, session.threads), kept=kept)


def _fetch(task: _Task) -> Mapping[str, Json]:
    return facts.facts_of(task.build).to_json()


def _base(task: _Task) -> Mapping[str, Json]:
    made = Artifacts(task.build)
    if task.scaling is not None:
        made.base(task.scaling)
        return {}
    build.require_possible(task.build)
    made.base()
    made.mmproj()
    build.examine(task.build, made)
    return {}


def _scale(task: _Task) -> Mapping[str, Json]:
    Artifacts(task.build).scale()
    return {}


def _matrix(task: _Task) -> Mapping[str, Json]:
    Artifacts(task.build).imatrix(task.scaling)
    return {}


def _make(task: _Task) -> Mapping[str, Json]:
    made = Artifacts(task.build)
    made.prepare(*task.target)
    made.quantized(*task.target)
    return {}


def _measure(task: _Task) -> Mapping[str, Json]:
    base, files = task.base(), task.measured()
    if task.build.text is not None:
        measuring.evaluate(task.build, base, files)
    measuring.by_packages(task.build, [base, *files])
    return {}


def _speak(task: _Task) -> Mapping[str, Json]:
    measuring.speak(task.build, [task.base(), *task.measured()])
    return {}


def _ask(task: _Task) -> Mapping[str, Json]:
    measuring.ask(task.build, [task.base(), *task.measured()])
    return {}


def _bench(task: _Task) -> Mapping[str, Json]:
    measuring.time_all(task.build, task.measured() or [task.base()])
    return {}


def _finish(task: _Task) -> Mapping[str, Json]:
    job = task.build
    made = [_result(path) for path in (job.base_output, *task.made())]
    named = [job.out / file.name for one in task.needs if one.job.split("|")[1] in _MEASURES for file in one.files]
    measured = [_result(path) for path in named if path.suffix == ".json" and read_manifest(path) is not None]
    part = None if job.part is None or not job.part.output.exists() else _result(job.part.output)
    build.conclude(job, made, measured, part)
    return {}


_MEASURES = ("measure", "speak", "tasks", "bench")
_DOING: Mapping[str, Callable[[_Task], Mapping[str, Json]]] = {
    "fetch": _fetch, "base": _base, "scale": _scale, "matrix": _matrix, "quantize": _make, "refine": _make,
    "measure": _measure, "speak": _speak, "tasks": _ask, "bench": _bench, "finish": _finish,
}  # fmt: skip
