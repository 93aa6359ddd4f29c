"""Many builds at once: what a sweep file asks for, on the workers that are asked for."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from ggufkit.core import extras
from ggufkit.core.errors import GgufkitError, ToolchainError, UsageError
from ggufkit.core.manifest import SUFFIX, artefact_of, write_atomically
from ggufkit.core.progress import Reporter
from ggufkit.core.records import QuantType
from ggufkit.llama import toolchain
from ggufkit.steps.quantize import known_types
from ggufkit.steps.step import Workspace, remove
from ggufkit.sweep import (
    claims,
    clusters,
    done,
    foreseen,
    gather,
    graph,
    inputs,
    journal,
    keeper,
    matrix,
    station,
    stores,
    sweep_file,
    toolchains,
    watch,
)
from ggufkit.sweep.clusters import Connection, Where
from ggufkit.sweep.course import Course
from ggufkit.sweep.drive import Driver
from ggufkit.sweep.foreseen import Outlook
from ggufkit.sweep.journal import Journal
from ggufkit.sweep.keys import Keys
from ggufkit.sweep.past import Past
from ggufkit.sweep.places import CSV, Places
from ggufkit.sweep.records import Cell, Event, Outcome
from ggufkit.sweep.spec import Queue, Spec
from ggufkit.sweep.station import Versions
from ggufkit.sweep.stores import Store, StoreSpec
from ggufkit.version import __version__

Hear = Callable[[Event], None]
_AHEAD = 2
"""Cells at work for each worker: the next is fetched and converted while one is measured."""


@dataclass(frozen=True)
class Asked:
    """A sweep, and where its workers come from.

    Args:
        profiles: by name; none for all.
        out: where results go, if not where the file says.
        scheduler: address of one that is there; "" for none.
        system: the queue whose jobs are workers, of `clusters.SYSTEMS`; "" for none.
        workers: so many on this machine; None for as many as the file says, or as it has.
        store: a URL under which workers find files that do not see the directory; "" for none.
        force: make all anew.
        against: the sweep.csv of an earlier sweep, None for none.
    """

    file: Path
    profiles: tuple[str, ...] = ()
    out: Path | None = None
    scheduler: str = ""
    system: str = ""
    workers: int | None = None
    store: str = ""
    force: bool = False
    against: Path | None = None

    def __post_init__(self) -> None:
        """Raise UsageError for several kinds of workers."""
        if bool(self.scheduler) + bool(self.system) + (self.workers is not None) > 1:
            raise UsageError("--workers, --scheduler and a queue exclude each other.", hint="Give one of them.")

    def where(self, spec: Spec) -> Where:
        """Where workers come from, with what the file says of that."""
        queue = spec.cluster.queues.get(self.system, Queue())
        return Where(self.scheduler, self.system, queue, self.workers or spec.cluster.workers)


def read(asked: Asked) -> tuple[Spec, tuple[Cell, ...]]:
    """What the file says, and its cells. Raises InputError with the place of a fault."""
    spec = sweep_file.read(asked.file, _known_types())
    spec = spec if asked.out is None else replace(spec, out=asked.out)
    return spec, matrix.cells(spec, asked.profiles)


def _known_types() -> Sequence[QuantType] | None:
    """Those of the llama.cpp that is here; None where none is, and types are checked when they are made."""
    try:
        tools = toolchain.locate("cpu")
        return None if tools is None else known_types(tools)
    except ToolchainError:
        return None


def foresee(asked: Asked, reporter: Reporter) -> Outlook:
    """What a sweep would do and take; no weights are fetched, and nothing of it is begun.

    Raises:
        InputError: the file is wrong.
        ToolchainError: there is no llama.cpp, and none can be had.
    """
    spec, cells = read(asked)
    return foreseen.foresee(cells, spec.out, reporter)


def sweep(asked: Asked, hear: Hear) -> Mapping[str, Outcome]:
    """Make and measure all that a sweep file asks for, and gather what was found; what is there is kept.

    Args:
        hear: is told every event, from this thread.

    Returns:
        How each job ended, by its id.

    Raises:
        BusyError: another sweep is at work there.
        GgufkitError: the file is wrong, or no worker can be had; what became of single jobs is told by their outcomes.
    """
    extras.require("sweep")
    gather.require_table(asked.against)
    spec, cells = read(asked)
    places = Places(spec.out)
    with claims.alone_in(spec.out), ExitStack() as workers:
        places.stop.unlink(missing_ok=True)
        done.forget(spec.out)
        write_atomically(places.root / "sweep.yaml", asked.file.read_text(encoding="utf-8"))
        if asked.force:
            _drop(places, cells)
        found = stores.found(spec.out, asked.store)
        if asked.store:
            store, say = clusters.files_here(found), lambda text: hear(Event(time.time(), "warned", text=text))
            workers.enter_context(claims.alone_at(asked.store, store, say, places.stop.touch))
            _own(store, found, places)
        told = workers.enter_context(Journal(places.journal))
        where = asked.where(spec)
        clients = workers.enter_context(contextlib.closing(_Clients(where, found)))
        first = clients.connection
        if not first.is_local:
            toolchains.offer("auto", first.store)
        hear(told.append(journal.began(_driver(first))))
        for reason in first.refused:
            hear(told.append(Event(time.time(), "refused", text=reason)))
        for cell in cells:
            hear(told.append(journal.planned(cell.name, [graph.fetch(cell)])))
        driver = Driver(clients, places.out, told, _course(first, places, where), hear)
        try:
            ended = driver.drive(cells)
        finally:
            clients.close()
            _tidy(places, driver.unfinished)
        failures = [outcome for outcome in ended.values() if outcome.state == "failed"]
        for text in gather.gather(cells, places.out, failures, asked.against).warnings:
            hear(told.append(Event(time.time(), "warned", text=text)))
        return ended


def rows_as_json(places: Places) -> str:
    """The rows of a sweep's table, none where it has none, as a JSON list."""
    from ggufkit.report import swept

    table = places.out / CSV
    return swept.to_json(swept.read(table) if table.is_file() else [])


def _own(store: Store, found: StoreSpec, places: Places) -> None:
    """Have the store marked as this sweep's. If another one wrote into it since, nothing that is known of files holds."""
    before = store.read(stores.MARK)
    if before is None or before.decode(errors="replace").strip() != found.name:
        places.journal.unlink(missing_ok=True)
        store.write(stores.MARK, found.name.encode())


def _drop(places: Places, cells: Sequence[Cell]) -> None:
    """Remove what was made for cells, and what is noted of it; nothing that ggufkit did not make."""
    for cell in cells:
        with Workspace(places.out / cell.name).locked():
            for manifest in sorted((places.out / cell.name).rglob(f"*{SUFFIX}")):
                remove(artefact_of(manifest))
                manifest.unlink(missing_ok=True)
    places.journal.unlink(missing_ok=True)
    (places.out / stores.MARK).unlink(missing_ok=True)  # what workers kept of it is of another store


def _tidy(places: Places, cells: Sequence[str]) -> None:
    """Remove what jobs that were stopped left half done."""
    for cell in cells:
        with contextlib.suppress(GgufkitError), Workspace(places.out / cell).locked():
            pass


class _Clients:
    """Gives the client that is there, and after that new ones: a scheduler that was started again knows nothing."""

    def __init__(self, where: Where, found: StoreSpec) -> None:
        self._open = partial(clusters.connected, where, found)
        self._stack, self._is_first = ExitStack(), True
        self.connection = self._stack.enter_context(self._open())

    def __call__(self) -> Any:
        if not self._is_first:
            self.close()
            self.connection = self._stack.enter_context(self._open())
        self._is_first = False
        return self.connection.client

    def close(self) -> None:
        with contextlib.suppress(Exception):  # nobody may be there any more to take leave of
            self._stack.close()


def _driver(connection: Connection) -> journal.Driver:
    return journal.Driver(
        socket.gethostname(), os.getpid(), str(connection.client.dashboard_link or ""), __version__
    )


def _course(connection: Connection, places: Places, where: Where) -> Course:
    known = connection.client.scheduler_info(n_workers=-1)["workers"].values()
    coming = where.queue.jobs if where.system else 1  # a queue may give its first worker hours later
    gpus = where.queue.gpus if where.system else sum(worker["resources"].get(station.GPU, 0) for worker in known)
    look, versions = Past(places.journal, connection.store).outcome, Versions.here()
    return Course(
        window=_AHEAD * max(coming, len(known)),
        on_gpu=gpus > 0,
        at_files=keeper.RESOURCE if connection.has_keeper else "",
        offer=lambda request: () if connection.is_local else inputs.offered(request, connection.store),
        bring=connection.store.pull if connection.spec.url else Course.bring,
        look=look,
        keys=lambda cell: Keys.of(cell, versions),
        is_stopped=lambda: watch.is_asked_to_stop(places),
    )
