"""Work that need not be waited for, in the order in which it was given."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class InTurn:
    """Everything is done at once."""

    def do(self, job: Callable[[], None]) -> None:
        """Do a job. Raises what it raises."""
        job()

    def finish(self) -> None:
        """Wait until all is done: it is."""


class Behind(InTurn):
    """One job at a time beside what its owner does; the next waits for the one before."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "behind")
        self._last: Future[None] | None = None

    def do(self, job: Callable[[], None]) -> None:
        """Begin a job when the one before is done. Raises what that one raised."""
        self.finish()
        self._last = self._thread.submit(job)

    def finish(self) -> None:
        """Wait until all is done. Raises what a job raised."""
        last, self._last = self._last, None
        if last is not None:
            last.result()
