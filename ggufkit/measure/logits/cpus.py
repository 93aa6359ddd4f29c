"""Which processors each of several processes gets."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

_TOPOLOGY = Path("/sys/devices/system/cpu")


def share(cpus: Sequence[int], n_processes: int) -> list[tuple[int, ...]]:
    """Split processors into as many parts as there are processes; hyper-threads of a core stay together.

    llama.cpp's threads spin while they wait: two processes on the same processors spend their time on that.
    With fewer processors than processes each may use all of them, with one thread each that does not spin.
    """
    if len(cpus) < n_processes:
        return [tuple(cpus)] * n_processes
    ordered = sorted(cpus, key=lambda cpu: (_core(cpu), cpu))
    edges = [round(i * len(ordered) / n_processes) for i in range(n_processes + 1)]
    return [tuple(ordered[a:b]) for a, b in itertools.pairwise(edges)]


def threads(part: Sequence[int], n_threads: int, n_processes: int) -> int:
    """Threads for one of `n_processes`: its share of `n_threads`, no more than its processors."""
    return max(1, min(round(n_threads / n_processes), len(part) or n_threads))


def _core(cpu: int) -> int:
    """The first hyper-thread of a processor's core; the processor itself where the system does not tell."""
    try:
        siblings = (_TOPOLOGY / f"cpu{cpu}" / "topology" / "thread_siblings_list").read_text()
        return int(siblings.replace("-", ",").split(",")[0])
    except (OSError, ValueError):
        return cpu
