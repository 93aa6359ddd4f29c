"""What each of several processes may use of the machine: threads, processors, a GPU."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ggufkit.core import machine
from ggufkit.core.errors import ResourceError
from ggufkit.core.records import GgufFile
from ggufkit.core.units import size
from ggufkit.llama import memory, scoring_tool
from ggufkit.llama.gguf import read_header
from ggufkit.steps import offload
from ggufkit.steps.session import Session

_BESIDE = (1, 2, 3, 4)
_TOPOLOGY = Path("/sys/devices/system/cpu")


@dataclass(frozen=True)
class Share:
    """What a process may use: its threads, its processors (none: all), its GPU's UUID (None: any), the file that it may
    write scores to, and further variables of its environment."""

    threads: int
    cpus: Sequence[int] = ()
    gpu: str | None = None
    scores: Path | None = None
    variables: Mapping[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        """What tells the process which GPU and which file are its own, and what else it is told."""
        own = {**self.variables, "CUDA_VISIBLE_DEVICES": self.gpu, scoring_tool.VARIABLE: self.scores}
        return {name: str(value) for name, value in own.items() if value is not None}


def pinned(number: int = 0) -> Share:
    """A single thread on a single processor, another one for each number."""
    usable = machine.usable_cpus()
    return Share(1, (usable[number % len(usable)],) if usable else ())


def memory_needed(file: GgufFile, n_ctx: int) -> int:
    """Bytes that llama-perplexity takes for a file."""
    return memory.evaluation_ram(read_header(file.path), file.size_bytes, n_ctx, file.kv_type)


def require_memory(base: GgufFile, n_ctx: int, session: Session, *, at_once: int) -> None:
    """Refuse contexts whose logits memory does not hold: unlike weights, they cannot be read from disk again.

    Args:
        at_once: processes that run at once.

    Raises:
        ResourceError: memory holds too little.
    """
    header, free = read_header(base.path), machine.free_memory()
    on_cpu = session.tools.backend == "cpu"
    each = memory.evaluation_ram(header, 0, n_ctx) if on_cpu else memory.ram_beside_gpu(header, n_ctx)
    if at_once * each > free:
        beside = "" if at_once == 1 else f" in each of {at_once} processes"
        raise ResourceError(
            f"A context of {n_ctx:,} tokens takes {size(each)} of memory besides the weights{beside}, most of it for "
            f"logits: {size(free)} are free.",
            hint="Take a shorter --ctx" + (", or a larger --scratch-limit." if at_once > 1 else "."),
        )


def slots(files: Sequence[GgufFile], n_ctx: int, session: Session) -> list[Share]:
    """What may run at once: one process on a CPU; on each GPU as many as its memory holds, up to four.

    With a large vocabulary one process leaves a GPU idle most of the time.
    """
    gpus = offload.gpus(session)
    if not gpus or len(files) < 2:
        return [Share(session.threads)]
    need = max(memory_needed(f, n_ctx) for f in files)
    beside = memory.ram_beside_gpu(read_header(files[0].path), n_ctx)
    most = min(len(files), max(1, machine.free_memory() // beside))
    places = [gpu for n in _BESIDE for gpu in gpus if offload.place([need] * n, [gpu.memory_free]) is not None]
    used = places[:most]
    if not used:
        return [Share(session.threads)]
    return [Share(session.threads // len(used) or 1, (), gpu.uuid if len(gpus) > 1 else None) for gpu in used]


def side_by_side(files: Sequence[GgufFile], n_ctx: int, session: Session) -> list[Share]:
    """A share for each of processes that all run at once: on a CPU processors of its own; on GPUs all share them.

    Of several GPUs each process gets one, if its file fits; else all processes see all GPUs, and llama.cpp spreads them.
    """
    if session.tools.backend == "cpu":
        parts = split_cpus(machine.usable_cpus(), len(files))
        return [Share(threads_on(part, session.threads, len(files)), part) for part in parts]
    threads, gpus = max(1, session.threads // len(files)), offload.gpus(session)
    needs = [memory_needed(f, n_ctx) for f in files]
    placed = offload.place(needs, [gpu.memory_free for gpu in gpus]) if len(gpus) > 1 else None
    return [Share(threads, (), None if placed is None else gpus[placed[i]].uuid) for i in range(len(files))]


def split_cpus(cpus: Sequence[int], n_processes: int) -> list[tuple[int, ...]]:
    """Split processors into as many parts as there are processes; hyper-threads of a core stay together.

    llama.cpp's threads spin while they wait: two processes on the same processors spend their time on that.
    With fewer processors than processes each may use all of them, with one thread each that does not spin.
    """
    if len(cpus) < n_processes:
        return [tuple(cpus)] * n_processes
    ordered = sorted(cpus, key=lambda cpu: (_core(cpu), cpu))
    edges = [round(i * len(ordered) / n_processes) for i in range(n_processes + 1)]
    return [tuple(ordered[a:b]) for a, b in itertools.pairwise(edges)]


def threads_on(part: Sequence[int], n_threads: int, n_processes: int) -> int:
    """Threads for one of `n_processes`: its share of `n_threads`, no more than its processors."""
    return max(1, min(round(n_threads / n_processes), len(part) or n_threads))


def _core(cpu: int) -> int:
    """The first hyper-thread of a processor's core; the processor itself where the system does not tell."""
    try:
        siblings = (_TOPOLOGY / f"cpu{cpu}" / "topology" / "thread_siblings_list").read_text()
        return int(siblings.replace("-", ",").split(",")[0])
    except (OSError, ValueError):
        return cpu
