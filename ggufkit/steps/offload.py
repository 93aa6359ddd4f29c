"""Layers on the GPU: all that fit, and fewer when its memory runs out on the way."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from ggufkit.core.errors import DeviceMemoryError
from ggufkit.core.records import GgufFile
from ggufkit.llama import cuda
from ggufkit.llama.argv import Compute
from ggufkit.llama.cuda import Gpu
from ggufkit.llama.gguf import read_header
from ggufkit.llama.logs import Placement
from ggufkit.llama.memory import GPU_BATCH
from ggufkit.steps.session import Session

T = TypeVar("T")
_SHARES = (0.75, 0.5, 0.25, 0.0)
_USABLE = 0.8
_WAITING = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")


def with_fewer(run: Callable[[int | None], T], ngl: int | None, gguf: GgufFile, session: Session) -> T:
    """Run with `ngl` layers on the GPU; where that is None (llama.cpp fits them) and its memory runs out, with fewer.

    Args:
        run: does the work with so many layers on the GPU.

    Raises:
        DeviceMemoryError: the GPU's memory ran out with the layers that the user asked for, or even with none.
    """
    return next(each_with_fewer(lambda layers: map(run, [layers]), ngl, gguf, session))


def each_with_fewer(
    run: Callable[[int | None], Iterator[T]], ngl: int | None, gguf: GgufFile, session: Session
) -> Iterator[T]:
    """As `with_fewer`, for work that gives its results one after the other; with fewer layers `run` gives the rest."""
    fallbacks = ladder(ngl, read_header(gguf.path).hparam("block_count")) if session.tools.backend != "cpu" else []
    for fewer in fallbacks:
        try:
            yield from run(ngl)
            return
        except DeviceMemoryError as error:
            session.reporter.warn(f"{error.message} Trying again with {fewer} layers on the GPU.")
            keep_log(error, "all" if ngl is None else str(ngl))
            ngl = fewer
    yield from run(ngl)


def keep_log(error: DeviceMemoryError, layers: str) -> None:
    """Give the log of a failed try a name of its own: the next one writes another."""
    if error.log is not None:
        with contextlib.suppress(OSError):
            error.log.replace(error.log.with_name(f"{error.log.stem}-out-of-memory-{layers}.log"))


def else_on_cpu(run: Callable[[str], T], device: str, session: Session) -> T:
    """Run torch on a device; where that is "auto" and a GPU's memory runs out, go on on the CPU."""
    try:
        return run(device)
    except DeviceMemoryError as error:
        if device != "auto":
            raise
        session.reporter.warn(f"{error.message} It goes on on the CPU, which takes longer.")
    return run("cpu")


def ladder(ngl: int | None, n_layers: int) -> list[int]:
    """Numbers of layers to try after "all that fit" has failed; none where the user gave the number."""
    if ngl is not None:
        return []
    return list(dict.fromkeys(int(share * n_layers) for share in _SHARES))


def gpus(session: Session) -> Sequence[Gpu]:
    """The GPUs that the tools compute on, with their free memory now; none that ggufkit can ask but NVIDIA's."""
    return cuda.gpus() if session.tools.backend == "cuda" else ()


def usable(session: Session) -> int:
    """Bytes of GPU memory that files may take, over all GPUs."""
    return sum(int(_USABLE * gpu.memory_free) for gpu in gpus(session))


def place(needs: Sequence[int], free: Sequence[int]) -> list[int] | None:
    """Which GPU each process of several at once gets as its own: the largest first, each where most is left.

    Args:
        needs: bytes that each process takes.
        free: free bytes of each GPU; a part is left to what nobody counts.

    Returns:
        The index of a GPU for each process; None where one fits no GPU beside those placed before it.
    """
    left, chosen = [int(_USABLE * n_bytes) for n_bytes in free], [0] * len(needs)
    for process in sorted(range(len(needs)), key=lambda i: -needs[i]):
        gpu = left.index(max(left)) if left else -1
        if gpu < 0 or needs[process] > left[gpu]:
            return None
        left[gpu] -= needs[process]
        chosen[process] = gpu
    return chosen


def compute(session: Session, ngl: int | None, threads: int, n_ctx: int = 512) -> Compute:
    """How llama-perplexity computes.

    On a GPU batches have 1024 tokens and are computed at once: two chunks of the usual 512. llama.cpp's own 2048 are
    computed in four parts of a quarter of each chunk, keep a GPU less busy, and leave logits for the host to put in
    order. Perplexity moves by some 1e-5 of itself, that of quantized files by some 1e-4.
    """
    plain = Compute(session.tools.backend, ngl, threads)
    if plain.on_cpu:
        return plain
    return replace(plain, batch=GPU_BATCH if n_ctx <= GPU_BATCH else None, ubatch=GPU_BATCH)


def environment() -> Mapping[str, str]:
    """Threads that wait give their processor back soon, unless the user has said how they wait.

    GNU OpenMP lets them spin for milliseconds, which is what several processes on one machine lose most time to.
    """
    return {} if any(name in os.environ for name in _WAITING) else {"GOMP_SPINCOUNT": "1000"}


def tell(gguf: GgufFile, placement: Placement, session: Session) -> None:
    """Say how many layers went where, on a machine with a GPU."""
    if session.tools.backend != "cpu" and placement.n_layers is not None:
        where = placement.device or "the CPU"
        session.reporter.info(
            f"{gguf.path.name}: {placement.layers_on_gpu} of {placement.n_layers} layers on {where}."
        )
