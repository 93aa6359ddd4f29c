"""How base logits get from the base to the files that are compared with it: one plain rule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from ggufkit.core.units import GIB, MIB
from ggufkit.steps import offload

FILE, PIPE, FAN_OUT, FEWER = "file", "pipe", "fan-out", "fewer chunks"
STRATEGIES = (FILE, PIPE, FAN_OUT)


@dataclass(frozen=True)
class Transport:
    """How base logits may travel.

    Args:
        scratch_limit: bytes of disk that they may take at any moment.
        strategy: one of `STRATEGIES`, None to choose.
    """

    scratch_limit: int
    strategy: str | None = None


@dataclass(frozen=True)
class Need:
    """What an evaluation would take and what there is; all sizes in bytes.

    Args:
        fixed, per_chunk: the base logits are `fixed` + `per_chunk` for each chunk.
        n_chunks: no more chunks than these.
        scratch: the most disk that base logits may take: the limit, or what is free if that is less.
        ram_base, ram_files: memory to evaluate the base, and each file; the GPU's, if one holds it.
        ram_beside: the machine's own memory for each file that a GPU holds.
        pipes: whether named pipes can be made.
        gpus_free: free memory of each GPU, none on a CPU.
    """

    fixed: int
    per_chunk: int
    n_chunks: int
    scratch: int
    ram_base: int
    ram_files: Sequence[int]
    ram_free: int
    pipes: bool
    gpus_free: Sequence[int] = ()
    ram_beside: int = 0

    @property
    def logits(self) -> int:
        """Bytes of all base logits, at most."""
        return self.fixed + self.n_chunks * self.per_chunk


@dataclass(frozen=True)
class Strategy:
    """Its name, how many files are compared at once, how many chunks at most, and why it was chosen."""

    name: str
    at_once: int
    n_chunks: int
    why: str

    @property
    def by_pipes(self) -> bool:
        """Whether files are evaluated beside the base, as many as share its pass, and nothing lies on the disk."""
        return self.name in (PIPE, FAN_OUT)


def choose(need: Need, wanted: str | None = None) -> Strategy:
    """The strategy for an evaluation, or `wanted` if that is given.

    On a CPU a file when it fits the scratch limit: every process then has the whole machine. On a GPU, which one
    process leaves idle most of the time, and where a file does not fit, named pipes: the base is evaluated once for
    as many files as memory holds beside it. Without named pipes, as many chunks as fit.
    """
    beside = _beside(need)
    at_once = max(1, beside)
    fits = need.logits <= need.scratch
    size = f"{_size(need.logits)} of base logits at most"
    shared = bool(need.gpus_free) and need.pipes and at_once > 1
    if wanted is None and shared:
        return Strategy(FAN_OUT, at_once, need.n_chunks, f"the GPU holds {at_once} files beside the base")
    if wanted == FILE or (wanted is None and fits):
        return Strategy(FILE, 1, need.n_chunks, f"{size}, which fits the scratch limit")
    if wanted == PIPE:
        return Strategy(PIPE, 1, need.n_chunks, "as asked for")
    if need.pipes and at_once > 1:
        why = f"{size} exceed the scratch limit; memory holds {at_once} files beside the base"
        return Strategy(FAN_OUT, at_once, need.n_chunks, "as asked for" if wanted else why)
    if need.pipes:
        why = f"{size} exceed the scratch limit; one file is evaluated beside the base"
        if beside == 0:
            why += f", though memory does not hold both: --scratch-limit {_size(need.logits, '')} lets them take turns"
        return Strategy(PIPE, 1, need.n_chunks, why)
    fitting = max(0, (need.scratch - need.fixed) // need.per_chunk)
    return Strategy(FEWER, 1, fitting, f"{size} exceed the scratch limit, and there are no named pipes here")


def _beside(need: Need) -> int:
    """How many files fit in memory beside the base; the largest are counted first."""
    together = [need.ram_base]
    for ram in sorted(need.ram_files, reverse=True):
        together.append(ram)
        if not _held(together, need):
            return len(together) - 2
    return len(need.ram_files)


def _held(together: Sequence[int], need: Need) -> bool:
    """Whether the machine holds processes of so many bytes each at once."""
    if not need.gpus_free:
        return sum(together) <= need.ram_free
    placed = offload.place(together, need.gpus_free) is not None
    return placed and len(together) * need.ram_beside <= need.ram_free


def _size(n_bytes: int, space: str = " ") -> str:
    """Rounded up: as a limit it is enough."""
    if n_bytes >= GIB:
        return f"{ceil(10 * n_bytes / GIB) / 10:.1f}{space}GiB"
    return f"{ceil(n_bytes / MIB)}{space}MiB"
