"""Limits of time and memory, for work on what somebody else wrote: a template, a table.

The system holds them: processor time ends a process by SIGXCPU wherever it is, memory that is not given is a MemoryError
(on Linux; elsewhere the time alone is limited), and a file that grows too large an OSError.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Limits:
    """What a process may use from now on.

    Args:
        cpu_s: seconds of processor time, in all.
        memory_bytes: private memory, besides what the process has.
        file_bytes: size of each file that it writes; None for any.
        turn_s: seconds of processor time from one `renew` to the next; None for all of them.
    """

    cpu_s: int
    memory_bytes: int
    file_bytes: int | None = None
    turn_s: int | None = None

    def settings(self, used_s: float = 0.0, used_bytes: int = 0) -> dict[str, int]:
        """The system's names and values, for a process that has used so much already."""
        found = {"RLIMIT_CPU": math.ceil(used_s) + self.cpu_s, "RLIMIT_DATA": used_bytes + self.memory_bytes}
        return found if self.file_bytes is None else {**found, "RLIMIT_FSIZE": self.file_bytes}


_imposed: list[tuple[Limits, float, dict[str, int]]] = []
"""What holds in this process, since how many seconds of its processor time, and the settings that held before."""


@contextmanager
def imposed(limits: Limits) -> Iterator[None]:
    """Hold this process to limits for the length of a context; processes that it starts are not held to them."""
    import resource

    used_s = time.process_time()
    settings = limits.settings(used_s, _memory_bytes())
    before = {name: resource.getrlimit(getattr(resource, name))[0] for name in settings}
    _imposed.append((limits, used_s, before))
    _set(settings)
    renew()
    try:
        yield
    finally:
        _set(_imposed.pop()[2])


def renew() -> None:
    """Count the processor time of a turn from now on, where it is limited: a new piece of work begins."""
    if _imposed and (turn_s := _imposed[-1][0].turn_s) is not None:
        limits, since_s, _ = _imposed[-1]
        _set({"RLIMIT_CPU": math.ceil(min(time.process_time() + turn_s, since_s + limits.cpu_s))})


def usual() -> dict[str, int]:
    """The settings that held before limits were imposed, for processes that are not to have them; else nothing."""
    return _imposed[0][2] if _imposed else {}


def _set(settings: dict[str, int]) -> None:
    """Soft limits only, which can be taken back."""
    import resource

    for name, value in settings.items():
        kind = getattr(resource, name)
        hard = resource.getrlimit(kind)[1]
        resource.setrlimit(kind, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


def _memory_bytes() -> int:
    """Private memory of this process as RLIMIT_DATA counts it; 0 where the system does not tell."""
    import resource

    sizes = Path("/proc/self/statm")
    return int(sizes.read_text().split()[5]) * resource.getpagesize() if sizes.is_file() else 0
