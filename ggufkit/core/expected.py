"""Steps that do not tell how far they are: the time that they took before does."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

from ggufkit.core import durations
from ggufkit.core.concurrency import background
from ggufkit.core.durations import Work
from ggufkit.core.progress import Progress, Reporter

_EVERY_S, _MOST = 1.0, 0.99


@contextlib.contextmanager
def timed(reporter: Reporter, title: str, work: Work, *, remember: bool = True) -> Iterator[Progress]:
    """Open a step that shows the part of its usual time that has passed, where like work was done here before.

    Args:
        remember: note how long it took; false where somebody else does.
    """
    known, started = durations.known().estimate(work), time.monotonic()
    with reporter.step(title, 100 if known is not None else None) as progress:

        def look(over: threading.Event) -> None:
            while known is not None and not over.wait(_EVERY_S):
                gone = (time.monotonic() - started) / max(known.seconds, 1e-3)
                progress.update(100 * min(gone, _MOST), 100, "%")

        with background(look):
            yield progress
    if remember:
        durations.note(work, time.monotonic() - started)
