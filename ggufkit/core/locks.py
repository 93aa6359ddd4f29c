"""Locks between processes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from ggufkit.core.progress import Reporter


def is_held(path: Path) -> bool:
    """Whether a process holds a lock file at this moment."""
    try:
        with FileLock(path, timeout=0):
            return False
    except Timeout:
        return True


@contextlib.contextmanager
def waiting_lock(path: Path, what: str, reporter: Reporter) -> Iterator[None]:
    """Hold a lock file; say so when another process has it, and wait."""
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0.2)
    except Timeout:
        reporter.info(f"Waiting for another ggufkit that is at work on: {what}.")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
