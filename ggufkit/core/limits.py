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
        cpu_s: seconds of processor time.
        memory_bytes: private memory, besides what the process has.
        file_bytes: size of each file that it writes; None for any.
    """

    cpu_s: int
    memory_bytes: int
    file_bytes: int | None = None

    def settings(self, used_s: float = 0.0, used_bytes: int = 0) -> dict[str, int]:
        """The system's names and values, for a process that has used so much already."""
        found = {"RLIMIT_CPU": math.ceil(used_s) + self.cpu_s, "RLIMIT_DATA": used_bytes + self.memory_bytes}
        return found if self.file_bytes is None else {**found, "RLIMIT_FSIZE": self.file_bytes}


_imposed: list[tuple[Limits, dict[str, int]]] = []
"""What holds in this process, and what held before it."""


@contextmanager
def imposed(limits: Limits) -> Iterator[None]:
    """Hold this process to limits for the length of a context; processes that it starts are not held to them."""
    import resource

    settings = limits.settings(time.process_time(), _memory_bytes())
    _imposed.append((limits, {name: resource.getrlimit(getattr(resource, name))[0] for name in settings}))
    _set(settings)
    try:
        yield
    finally:
        _set(_imposed.pop()[1])


def renew() -> None:
    """Count processor time from now on, where it is limited: a new piece of work begins."""
    if _imposed:
        _set({"RLIMIT_CPU": _imposed[-1][0].settings(time.process_time())["RLIMIT_CPU"]})


def usual() -> dict[str, int]:
    """The settings that held before limits were imposed, for processes that are not to have them; else nothing."""
    return _imposed[0][1] if _imposed else {}


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
