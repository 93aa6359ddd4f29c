"""Where a sweep's workers come from: this machine, a cluster that exists, or jobs of a queue through dask-jobqueue."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from ggufkit.core import extras, machine
from ggufkit.core.errors import BusyError, InputError, UsageError
from ggufkit.core.imports import imported
from ggufkit.core.units import GIB
from ggufkit.llama import cuda
from ggufkit.sweep import keeper, station
from ggufkit.sweep.by_url import UrlCarrier
from ggufkit.sweep.spec import Queue
from ggufkit.sweep.station import Versions
from ggufkit.sweep.stores import HOME, PathStore, RemoteStore, Store, StoreSpec

LIGHT_THREADS = 4
"""Jobs at once on a worker: one that is heavy, and those that fetch and tabulate beside it."""

_DEAF = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"
"""What Dask has a worker of this machine do first: Ctrl-C is for the driver, which ends its workers."""
_CORES_PER_MAKER = 16
"""On a machine with GPUs one worker quantizes for so many processors."""
_GIB_A_CORE = 4
"""What a job asks for where nothing is said."""
_TIMES = ("SBATCH -t ", "PBS -l walltime=", "BSUB -W ", "$ -l h_rt=")
"""dask-jobqueue ends jobs after half an hour unless it is told something else: where nothing is said, the site decides."""
_BLIND = {"DASK_DISTRIBUTED__DIAGNOSTICS__NVML": "False"}  # that ends a worker which sees one GPU, by its name
_LOGGING, _NOTHING = "DASK_LOGGING__DISTRIBUTED", "critical"
"""What is worth saying the driver says; Dask's own lines are had by `DASK_LOGGING__DISTRIBUTED=info`."""
_CONNECT_S = 20.0
_DEATH_S = 300
"""A worker of a queue that finds no scheduler for so long ends, and with it its job."""


@dataclass(frozen=True)
class System:
    """A kind of queue.

    Args:
        title: as people call it.
        submit: the program without which there is none here.
        gpus: the directive that asks for so many GPUs; None where there is none that all sites have.
        partition, account: what dask-jobqueue calls them; "" where there is no such thing.
    """

    title: str
    cluster: str
    submit: str
    gpus: Callable[[int], str] | None
    partition: str = "queue"
    account: str = "account"
    walltime: bool = True


SYSTEMS: Mapping[str, System] = {
    "slurm": System("Slurm", "SLURMCluster", "sbatch", "--gpus={}".format),
    "pbs": System("PBS", "PBSCluster", "qsub", None),
    "lsf": System("LSF", "LSFCluster", "bsub", "-gpu num={}".format, account="project"),
    "sge": System("SGE", "SGECluster", "qsub", "-l gpu={}".format, account="project"),
    "oar": System("OAR", "OARCluster", "oarsub", None, account="project"),
    "htcondor": System("HTCondor", "HTCondorCluster", "condor_submit", "request_gpus={}".format, "", "", walltime=False),
}  # fmt: skip
"""TABLE of queues that dask-jobqueue knows."""


@dataclass(frozen=True)
class Where:
    """Where workers come from.

    Args:
        scheduler: its address, or its file.
        system: of `SYSTEMS`, and what is asked of that: "" for none.
        workers: so many on this machine, where there is neither; None for what the machine has.
    """

    scheduler: str = ""
    system: str = ""
    queue: Queue = field(default_factory=Queue)
    workers: int | None = None

    @property
    def is_local(self) -> bool:
        """Whether all work is done on this machine."""
        return not self.scheduler and not self.system


@dataclass(frozen=True)
class LocalWorker:
    """A worker on this machine: its threads, and the GPU that it alone has; "" for none."""

    name: str
    threads: int
    gpu: str = ""
    makes: bool = True

    @property
    def options(self) -> dict[str, Any]:
        """What Dask starts it with. One that quantizes sees the GPUs, so that it has the same llama.cpp, and offers none."""
        resources = {station.THREADS: self.threads, station.GPU: int(bool(self.gpu)), station.CPU: int(self.makes)}
        seen = {"CUDA_VISIBLE_DEVICES": self.gpu} if self.gpu else {}
        return {
            "nthreads": LIGHT_THREADS, "name": self.name, "resources": resources, "memory_limit": 0,
            "env": {**_BLIND, **seen}, "dashboard": False, "preload": [_DEAF],
        }  # fmt: skip


def local_workers(wanted: int | None, cores: int, gpus: Sequence[str]) -> list[LocalWorker]:
    """One worker a GPU and some that quantize beside them; without GPUs so many as are wanted, or one."""
    with_gpu = list(gpus)[: wanted or None]
    makers = max(1, (cores - len(with_gpu)) // _CORES_PER_MAKER) if with_gpu else wanted or 1
    threads = max(1, cores // (len(with_gpu) + makers))
    return [
        *(LocalWorker(f"gpu-{i}", threads, gpu, makes=False) for i, gpu in enumerate(with_gpu)),
        *(LocalWorker(f"cpu-{i}", threads) for i in range(makers)),
    ]


@dataclass(frozen=True)
class Connection:
    """A client, and how the workers behind it find the sweep's files; why some were refused."""

    client: Any
    spec: StoreSpec
    is_local: bool
    refused: tuple[str, ...] = ()

    @property
    def store(self) -> Store:
        """The sweep's files, as this process has them."""
        return files_here(self.spec)

    @property
    def has_keeper(self) -> bool:
        """Whether jobs that need all files of a cell must ask for `keeper.RESOURCE`."""
        return bool(self.spec.keeper)


def files_here(spec: StoreSpec) -> Store:
    """A sweep's files where its directory is: behind a URL they are in the store, and what is brought comes there."""
    out = Path(spec.out)
    return RemoteStore(out, UrlCarrier(spec.url)) if spec.url else PathStore(out)


@contextlib.contextmanager
def connected(where: Where, spec: StoreSpec) -> Iterator[Connection]:
    """A client of the workers that are asked for, each with a station; what was started for it ends with the context.

    Raises:
        InputError: there is no such scheduler or queue.
        MissingExtra: Dask is not installed.
    """
    extras.require("sweep")
    is_quiet = os.environ.setdefault(_LOGGING, _NOTHING) == _NOTHING  # workers read that, too
    from distributed import Client

    for name in ("distributed", "distributed.client") if is_quiet else ():
        logging.getLogger(name).setLevel(logging.CRITICAL)
    with contextlib.ExitStack() as stack:
        if where.scheduler:
            client = stack.enter_context(_client(where.scheduler))
        else:
            started = _queued(where, spec) if where.system else _local(where.workers)
            cluster = stack.enter_context(started)
            client = stack.enter_context(Client(cluster, set_as_default=False))
        ours = "" if where.is_local else stack.enter_context(_keeper(client))
        spec = spec if spec.url else replace(spec, keeper=ours)
        refused = stack.enter_context(_stations(client, spec, ours))
        yield Connection(client, spec, where.is_local, refused)


def _client(scheduler: str) -> Any:
    from distributed import Client
    from distributed.comm import get_address_host_port

    file = Path(scheduler)
    try:
        if file.is_file():
            return Client(scheduler_file=str(file), timeout=_CONNECT_S, set_as_default=False)
        get_address_host_port(scheduler)  # a client that fails at that says so twice
        return Client(scheduler, timeout=_CONNECT_S, set_as_default=False)
    except (OSError, ValueError, TimeoutError) as error:
        hint = "Start one: `dask scheduler` there, and `dask worker tcp://HOST:8786` on each machine."
        raise InputError(f"No Dask scheduler answers at {scheduler}.", hint=hint) from error


def _local(wanted: int | None) -> Any:
    """Workers in processes of their own, so that each sees its GPU alone."""
    from distributed import Nanny, Scheduler, SpecCluster

    gpus = [gpu.uuid for gpu in cuda.gpus()]
    workers = local_workers(wanted, machine.physical_cores(), gpus)
    quiet = {"silence_logs": logging.WARNING}  # what they do is told by events
    specs = {worker.name: {"cls": Nanny, "options": {**worker.options, **quiet}} for worker in workers}
    options = {"host": "127.0.0.1", "port": 0, "dashboard_address": "127.0.0.1:0"}
    return SpecCluster(specs, {"cls": Scheduler, "options": options}, name="ggufkit-sweep", silence_logs=False)


@contextlib.contextmanager
def _queued(where: Where, spec: StoreSpec) -> Iterator[Any]:
    """A cluster whose workers are jobs of a queue; jobs that end are replaced.

    Raises:
        InputError: there is no such queue here, or it refuses the first job.
    """
    system, hint = require_system(where.system), f"See cluster: {where.system}: in the sweep file."
    kind = getattr(imported("dask_jobqueue"), system.cluster)
    submitted: SimpleQueue[str] = SimpleQueue()
    told = queue_arguments(where.system, where.queue, Path(spec.out) / HOME / "logs")
    logging.getLogger("tornado.application").setLevel(logging.CRITICAL)  # of what a queue says, once is enough
    try:
        cluster = kind(job_cls=_telling(kind.job_cls, submitted), **told)
    except ValueError as error:
        raise UsageError(f"{system.title} cannot be asked for that: {error}.", hint=hint) from error
    with cluster:
        cluster.scale(jobs=where.queue.jobs)
        if refused := submitted.get():
            raise InputError(f"{system.title} refuses the jobs of the sweep: {refused}", hint=hint)
        cluster.adapt(minimum_jobs=where.queue.jobs, maximum_jobs=where.queue.jobs)
        yield cluster


def _telling(job: type, submitted: SimpleQueue[str]) -> type:
    """A kind of job that tells when it was submitted: "", or what the queue said against it."""
    from distributed.core import Status

    class Job(job):  # type: ignore[misc]
        async def start(self) -> None:
            try:
                await super().start()
            except Exception as error:
                self.status = Status.failed  # so that the cluster can be closed
                submitted.put(
                    next((x.strip() for x in reversed(str(error).splitlines()) if x.strip()), "no reason")
                )
                raise
            submitted.put("")

    return Job


def require_system(name: str) -> System:
    """The row of a queue. Raises InputError where this machine cannot submit jobs to it."""
    system = SYSTEMS[name]
    if shutil.which(system.submit) is None:
        hint = "Run the command where jobs are submitted, or give --scheduler or --workers."
        raise InputError(f"{system.title} is not installed here: there is no {system.submit}.", hint=hint)
    return system


def queue_arguments(name: str, asked: Queue, logs: Path) -> dict[str, Any]:
    """What dask-jobqueue is told: one worker a job, with all that the job has.

    Raises:
        UsageError: GPUs are asked for where each site has a directive of its own for them.
    """
    system = SYSTEMS[name]
    optional = {
        system.partition: asked.partition, system.account: asked.account,
        "walltime": asked.time if system.walltime else None,
        "interface": asked.interface, "local_directory": asked.scratch, "job_script_prologue": list(asked.prologue),
    }  # fmt: skip
    offered = f"{station.THREADS}={asked.cores}" + ("" if asked.gpus else f" {station.GPU}=0")
    return {
        "cores": asked.cores, "memory": f"{_memory_bytes(asked)}B", "processes": 1, "log_directory": str(logs),
        "job_name": "ggufkit-sweep", "death_timeout": _DEATH_S, "scheduler_options": {"dashboard_address": ":0"},
        "job_directives_skip": [] if asked.time else list(_TIMES),
        "worker_extra_args": ["--no-dashboard", "--resources", f"'{offered}'"],
        **_directives(system, asked),
        **{option: value for option, value in optional.items() if option and value},
    }  # fmt: skip


def _memory_bytes(asked: Queue) -> int:
    return asked.memory_bytes or asked.cores * _GIB_A_CORE * GIB


def _directives(system: System, asked: Queue) -> dict[str, Any]:
    if system.cluster == "PBSCluster" and asked.gpus:
        memory = f"{_memory_bytes(asked) // 1024}kb"
        chunk = f"select=1:ncpus={asked.cores}:ngpus={asked.gpus}:mem={memory}"
        return {"job_extra_directives": list(asked.extra), "resource_spec": chunk}
    if asked.gpus and system.gpus is None:
        hint = "Write what your site wants into extra: of the sweep file, and leave gpus: out."
        raise UsageError(f"{system.title} has no directive for GPUs that all sites know.", hint=hint)
    directives = [*([system.gpus(asked.gpus)] if asked.gpus and system.gpus else []), *asked.extra]
    if system.cluster == "HTCondorCluster":
        pairs = (word.partition("=") for word in directives)
        named = {name.strip(): value.strip() for name, _, value in pairs}
        return {"job_extra_directives": named, "disk": f"{_memory_bytes(asked)}B"}
    return {"job_extra_directives": directives}


@contextlib.contextmanager
def _keeper(client: Any) -> Iterator[str]:
    """A worker in this process that sees the sweep's directory, and shows others that the scheduler is taken; its address.
    Raises BusyError where there is one."""
    from distributed import Worker

    async def start() -> Any:
        return await Worker(
            client.scheduler.address, name=keeper.NAME, nthreads=LIGHT_THREADS, memory_limit=0, dashboard=False,
            security=client.security,
        )  # fmt: skip

    known = client.scheduler_info(n_workers=-1)["workers"].values()
    if any(worker["name"] == keeper.NAME for worker in known):
        hint = "Wait until it ends, or start another scheduler, with workers of its own."
        raise BusyError(f"Another sweep is at work with the scheduler {client.scheduler.address}.", hint=hint)
    worker = client.sync(start)
    try:
        yield str(worker.address)
    finally:
        with contextlib.suppress(Exception):  # the scheduler may be gone
            client.sync(worker.close, timeout=5)


@contextlib.contextmanager
def _stations(client: Any, spec: StoreSpec, ours: str) -> Iterator[tuple[str, ...]]:
    """Have each worker but ours checked, those that come later, too; why some were refused.

    Raises:
        InputError: all were that there are.
    """
    client.register_plugin(station.plugin(spec, Versions.here()), name=station.PLUGIN)
    try:
        answers = client.run(station.refusal, on_error="return")
        others = [answer for address, answer in answers.items() if address != ours]
        refused = tuple(sorted({_words(answer) for answer in others if answer is not None}))
        if others and None not in others:
            raise InputError(f"No worker can be used. {refused[0]}", hint=station.REMEDY)
        yield refused
    finally:
        with contextlib.suppress(Exception):  # the scheduler may be gone
            client.unregister_worker_plugin(station.PLUGIN)


def _words(refusal: str | BaseException) -> str:
    return refusal if isinstance(refusal, str) else f"A worker has no ggufkit, or another one: {refusal}."
