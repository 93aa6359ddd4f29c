"""Large libraries, imported without the garbage collector."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


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
