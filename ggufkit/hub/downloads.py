"""Downloads side by side, watched by their size on disk, and ended at once when the user says so."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence

from ggufkit.core.concurrency import Job, background, run_linked
from ggufkit.core.progress import Reporter

WORKERS = 4
_EVERY_S = 0.3
_PATIENCE_S = 5.0


def one_display() -> None:
    """Keep the libraries from drawing bars of their own; they read this when they are loaded."""
    os.environ.setdefault("TQDM_DISABLE", "1")


@contextlib.contextmanager
def watching(title: str, size: Callable[[], int], total: int, reporter: Reporter) -> Iterator[None]:
    """Report how many bytes are there while the work of the context is done.

    Args:
        size: bytes that are on disk, of `total`.
    """
    with reporter.step(title, total / 1e6) as progress:

        def look(over: threading.Event) -> None:
            while not over.wait(_EVERY_S):
                with contextlib.suppress(OSError):
                    progress.update(size() / 1e6, total / 1e6, "MB")

        with background(look):
            yield


def download_all(jobs: Sequence[Job[None]]) -> None:
    """Run downloads side by side; the first failure, or an interrupt, ends them all."""
    run_linked(jobs, at_once=WORKERS, patience_s=_PATIENCE_S)
