"""What this machine is and what is free on it."""

from __future__ import annotations

import platform
import shutil
from pathlib import Path

import psutil

MOST_THREADS = 512
"""llama.cpp takes no more (`GGML_MAX_N_THREADS`)."""


def physical_cores() -> int:
    """Physical cores that this process may use, from 1 to MOST_THREADS. Hyper-threads do not speed up llama.cpp."""
    cores = psutil.cpu_count(logical=False) or psutil.cpu_count() or 1
    return max(1, min(cores, len(usable_cpus()) or cores, MOST_THREADS))


def usable_cpus() -> tuple[int, ...]:
    """Numbers of the processors that this process may run on; empty where the system does not tell."""
    process = psutil.Process()
    return tuple(process.cpu_affinity()) if hasattr(process, "cpu_affinity") else ()


def cpu_name() -> str:
    """The processor's model name."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
        if names:
            return names[0]
    return platform.processor() or platform.machine()


def describe() -> str:
    """The machine in a few words: what speed measurements depend on."""
    return f"{cpu_name()}, {physical_cores()} cores, {platform.system()}"


def free_disk(path: Path) -> int:
    """Free bytes for files below `path`, which need not exist yet."""
    here = path.absolute()
    while not here.exists():
        here = here.parent
    return shutil.disk_usage(here).free


def free_memory() -> int:
    """Bytes of RAM that a new process can use without swapping."""
    return int(psutil.virtual_memory().available)


def total_memory() -> int:
    """Bytes of RAM of this machine."""
    return int(psutil.virtual_memory().total)
