"""Downloads side by side, watched by their size on disk, and ended at once when the user says so."""

from __future__ import annotations

import contextlib
import os
import queue
import threading
from collections.abc import Callable, Iterator, Sequence

from ggufkit.core.progress import Reporter

WORKERS = 4
_EVERY_S = 0.3
_PATIENCE_S = 5.0

Job = Callable[[threading.Event], None]
"""One download; it should end soon after the event is set."""


def one_display() -> None:
    """Keep the libraries from drawing bars of their own; they read this when they are loaded."""
    os.environ.setdefault("TQDM_DISABLE", "1")


@contextlib.contextmanager
def watching(title: str, size: Callable[[], int], total: int, reporter: Reporter) -> Iterator[None]:
    """Report how many bytes are there while the work of the context is done.

    Args:
        size: bytes that are on disk, of `total`.
    """
    over = threading.Event()
    with reporter.step(title, total / 1e6) as progress:

        def look() -> None:
            while not over.wait(_EVERY_S):
                with contextlib.suppress(OSError):
                    progress.update(size() / 1e6, total / 1e6, "MB")

        watcher = threading.Thread(target=look, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            over.set()
            watcher.join()


def run_all(jobs: Sequence[Job]) -> None:
    """Run downloads side by side; the first failure, or an interrupt, ends them all.

    The threads are daemons: one that waits for a stalled server must not keep the process from ending.
    """
    todo: queue.SimpleQueue[Job] = queue.SimpleQueue()
    ended: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
    cancel = threading.Event()
    for job in jobs:
        todo.put(job)

    def work() -> None:
        with contextlib.suppress(queue.Empty):
            while not cancel.is_set():
                job = todo.get_nowait()
                try:
                    job(cancel)
                    ended.put(None)
                except BaseException as error:
                    ended.put(error)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(WORKERS, len(jobs)))]
    for thread in threads:
        thread.start()
    try:
        for _ in jobs:
            if (failure := ended.get()) is not None:
                raise failure
    except Exception:
        cancel.set()
        for thread in threads:
            thread.join(_PATIENCE_S)
        raise
    finally:
        cancel.set()
