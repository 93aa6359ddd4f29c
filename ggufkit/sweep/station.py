"""A worker of a sweep: what it has, where its files are, and whether its ggufkit is the driver's.

The driver registers one `StationPlugin`; Dask gives it to every worker, to those that come later, too. A job asks for one
unit of `CHECKED`, which only a worker has that passed: none runs on a worker that was refused, or that has no ggufkit.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ggufkit.core import machine
from ggufkit.core.errors import GgufkitError, InputError
from ggufkit.core.units import size
from ggufkit.llama import cuda, toolchain
from ggufkit.llama.source import PINNED_COMMIT
from ggufkit.sweep import keeper
from ggufkit.sweep.by_url import UrlCarrier
from ggufkit.sweep.keeper import DaskCarrier, Desk
from ggufkit.sweep.stores import PathStore, RemoteStore, Store, StoreSpec
from ggufkit.version import __version__

TOPIC = "ggufkit-sweep"
"""Where workers tell the driver what happens: `client.subscribe_topic`."""
CHECKED = "ggufkit"
"""A resource: so many light jobs at once, more than anybody has threads for."""
HEAVY, GPU, CPU, THREADS = "heavy", "GPU", "CPU", "threads"
"""`CPU` has who quantizes: not a worker for a GPU that has others beside it for that."""
PLUGIN = "ggufkit-station"

_MANY = 1000.0
_KEEPER_JOBS = 1.0
_LOOK_S = 15.0
_ATTRIBUTE, _REFUSAL = "ggufkit_station", "ggufkit_refusal"


@dataclass(frozen=True)
class Versions:
    """What driver and workers must have in common; the llama.cpp is the commit's."""

    ggufkit: str
    llama_cpp: str

    @classmethod
    def here(cls) -> Versions:
        """Of this process: the pinned llama.cpp where none is there yet, for that one will be built."""
        tools = toolchain.locate()
        return cls(__version__, tools.commit if tools is not None else PINNED_COMMIT)

    def difference(self, here: Versions, host: str) -> str | None:
        """Why a worker with other versions is refused; None if they are the same."""
        if here.ggufkit != self.ggufkit:
            return f"{host} has ggufkit {here.ggufkit}, this machine {self.ggufkit}."
        if here.llama_cpp != self.llama_cpp:
            return f"{host} has llama.cpp {here.llama_cpp[:12]}, this machine {self.llama_cpp[:12]}."
        return None


REMEDY = (
    "Install the same ggufkit on all machines, and set GGUFKIT_LLAMA_CPP on all or on none: files that different versions "
    "made are not comparable."
)


@dataclass(frozen=True)
class Station:
    """A worker, as the jobs on it see it.

    Args:
        name: what Dask calls it.
        host: the machine's name.
        store: the sweep's files.
        threads: for the tools of a heavy job.
        scratch: a directory of the worker's own, gone when it ends.
        run: what this sweep is called; the next one is another.
        n_gpus: GPUs that the worker may use.
        tell: sends an event to the driver.
        alone: holds a name among all workers of the sweep.
        pause: lets the worker take no further jobs until so many bytes are free for files in a directory.
    """

    name: str
    host: str
    store: Store
    threads: int
    scratch: Path
    run: str = ""
    n_gpus: int = 0
    tell: Callable[[Mapping[str, Any]], None] = lambda _event: None
    alone: Callable[[str], AbstractContextManager[Any]] = contextlib.nullcontext
    pause: Callable[[Path, int], None] = lambda _path, _n_bytes: None


def current() -> Station:
    """The station of the worker that this thread works for."""
    from distributed import get_worker

    found: Station = getattr(get_worker(), _ATTRIBUTE)
    return found


def plugin(spec: StoreSpec, versions: Versions) -> Any:
    """The plugin that makes stations of workers: `client.register_plugin(plugin(...), name=PLUGIN)`.

    Args:
        versions: the driver's.
    """
    from distributed import WorkerPlugin

    class StationPlugin(WorkerPlugin):  # type: ignore[misc]
        """Checks a worker, and gives it a station and resources."""

        async def setup(self, worker: Any) -> None:
            """Refuse the worker, or let it take jobs."""
            await set_up(worker, spec, versions)

    return StationPlugin()


async def set_up(worker: Any, spec: StoreSpec, versions: Versions) -> None:
    """Make a station of a worker; one that is refused gets no resources, and so no jobs. The driver hears which."""
    from distributed.utils import offload

    if worker.name == keeper.NAME and not is_keeper(worker, spec):
        return  # what an earlier driver left behind; that of this one comes
    host = socket.gethostname()
    _let_tools_have_threads()
    try:
        station = await offload(_station, worker, spec)
        reason, hint = versions.difference(await offload(Versions.here), host), REMEDY
    except (GgufkitError, OSError) as error:
        reason, hint = f"{host}: {getattr(error, 'message', error)}", getattr(error, "hint", None) or ""
    setattr(worker, _REFUSAL, reason)
    if reason is not None:
        worker.log_event(TOPIC, {"kind": "refused", "worker": str(worker.name), "text": reason, "hint": hint})
        return
    setattr(worker, _ATTRIBUTE, station)
    resources = await offload(_resources, worker, spec, station)
    if is_keeper(worker, spec) and isinstance(station.store, PathStore):
        worker.handlers.update(Desk(station.store).handlers())
    await _give(worker, resources)
    worker.log_event(TOPIC, {"kind": "ready", "worker": str(worker.name), "text": host})


def _let_tools_have_threads() -> None:
    """Dask gives its workers one thread for products of matrices, and lets them return memory often: the tools that they
    start, and torch, have their own measure."""
    import dask

    for name, value in dask.config.get("distributed.nanny.pre-spawn-environ", {}).items():
        if os.environ.get(name) == str(value):
            del os.environ[name]


def refusal(dask_worker: Any) -> str | None:
    """Why a worker was refused, for `client.run`; None if it was not."""
    reason: str | None = getattr(dask_worker, _REFUSAL, None)
    return reason


def is_keeper(worker: Any, spec: StoreSpec) -> bool:
    """Whether a worker is the one that the driver runs beside itself."""
    return bool(spec.keeper) and worker.address == spec.keeper


def _station(worker: Any, spec: StoreSpec) -> Station:
    def tell(event: Mapping[str, Any]) -> None:
        worker.log_event(TOPIC, dict(event))

    def pause(path: Path, n_bytes: int) -> None:
        worker.loop.add_callback(_pause_until_room, worker, path, n_bytes)

    threads = int(worker.state.total_resources.get(THREADS, machine.physical_cores()))
    store, n_gpus = _store(worker, spec), len(cuda.gpus())
    scratch = Path(worker.local_directory) / "ggufkit"
    return Station(
        str(worker.name), socket.gethostname(), store, threads, scratch, spec.run, n_gpus, tell, _alone, pause
    )


def _alone(name: str) -> AbstractContextManager[Any]:
    from distributed import Lock

    held: AbstractContextManager[Any] = Lock(name)
    return held


def _store(worker: Any, spec: StoreSpec) -> Store:
    if spec.url:
        return RemoteStore(spec.local(), UrlCarrier(spec.url))
    if is_keeper(worker, spec) or spec.is_seen_here():
        return PathStore(Path(spec.out))
    if spec.keeper:
        return RemoteStore(spec.local(), DaskCarrier(worker, spec.keeper))
    message = f"The sweep's directory {spec.out} is not seen there."
    raise InputError(message, hint="Put it on a disk that all machines see, or give --store URL.")


def _resources(worker: Any, spec: StoreSpec, station: Station) -> dict[str, float]:
    """What a worker offers; what it was started with counts, as `dask worker --resources GPU=0`."""
    if is_keeper(worker, spec):
        return {keeper.RESOURCE: _KEEPER_JOBS}
    given = worker.state.total_resources
    found = {CHECKED: _MANY, HEAVY: 1.0, GPU: float(station.n_gpus), CPU: 1.0}
    return {name: given.get(name, amount) for name, amount in found.items()}


async def _give(worker: Any, resources: Mapping[str, float]) -> None:
    """Let a worker have resources. The scheduler heeds what is new only for jobs that it still has to place: those that
    wait for such a worker are placed when a worker comes, or goes on."""
    from distributed.core import Status

    had = dict(worker.state.total_resources)
    if any(had.get(name) != amount for name, amount in resources.items()):
        await worker.set_resources(**resources)
    if worker.status == Status.running:
        worker.status = Status.paused
        worker.status = Status.running


async def _pause_until_room(worker: Any, path: Path, n_bytes: int) -> None:
    """Take no further jobs while a disk is full: those that wait here go to others."""
    from distributed.core import Status

    if worker.status != Status.running or machine.free_disk(path) >= n_bytes:
        return
    manager = worker.memory_manager  # it would let the worker go on as soon as there is memory
    fraction, manager.memory_pause_fraction = manager.memory_pause_fraction, False
    worker.status = Status.paused
    text = (
        f"The disk of {socket.gethostname()} is full at {path}: it takes no jobs until {size(n_bytes)} are free."
    )
    worker.log_event(TOPIC, {"kind": "paused", "worker": str(worker.name), "text": text})
    while worker.status == Status.paused and machine.free_disk(path) < n_bytes:
        await asyncio.sleep(_LOOK_S)
    manager.memory_pause_fraction = fraction
    if worker.status == Status.paused:
        worker.status = Status.running
        worker.log_event(TOPIC, {"kind": "resumed", "worker": str(worker.name), "text": socket.gethostname()})
