"""Libraries, imported so that they leave the process as it was: without the garbage collector, and without their signals."""

from __future__ import annotations

import contextlib
import gc
import importlib
import signal
from collections.abc import Iterator
from types import ModuleType


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Import in a process of our own, where what modules define stays until its end.

    To search that for garbage takes a fifth of the time in which torch and transformers are imported. It is not searched
    later, either (`gc.freeze`).
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if enabled:
            gc.enable()


def imported(name: str) -> ModuleType:
    """A library of which a module takes Ctrl-C for itself where it is imported, as dask-jobqueue's does."""
    before = signal.getsignal(signal.SIGINT)
    try:
        return importlib.import_module(name)
    finally:
        if signal.getsignal(signal.SIGINT) is not before:
            signal.signal(signal.SIGINT, before)
