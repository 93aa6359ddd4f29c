"""How a long step tells what it is doing. The command line draws it; the library stays silent by default."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from ggufkit.core.errors import Interrupted


class Progress(Protocol):
    """One step under way."""

    def update(self, done: float, total: float | None = None, note: str = "") -> None:
        """Report that `done` of `total` units are finished; `note` is a few words of detail."""


class Reporter(Protocol):
    """Where steps report to. Implementations are thread-safe."""

    def step(self, title: str, total: float | None = None) -> AbstractContextManager[Progress]:
        """Open a step that ends with the context; `total` may become known later."""

    def info(self, text: str) -> None:
        """Say something worth reading once."""

    def warn(self, text: str) -> None:
        """Say something the user should act on, or know before trusting the result."""


class SilentReporter:
    """Says nothing; warnings are kept in `warnings`."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    @contextmanager
    def step(self, title: str, total: float | None = None) -> Iterator[Progress]:  # noqa: ARG002 - the protocol's signature
        """Open a step that nobody watches."""
        yield _Unwatched()

    def info(self, text: str) -> None:
        """Drop the text."""

    def warn(self, text: str) -> None:
        """Keep the warning for whoever called the library."""
        self.warnings.append(text)


class _Unwatched:
    def update(self, done: float, total: float | None = None, note: str = "") -> None:
        pass


def end_if(stop: threading.Event | None) -> None:
    """Raise Interrupted if the event is set: for long work in a thread, which nothing else ends."""
    if stop is not None and stop.is_set():
        raise Interrupted("It was stopped.")
