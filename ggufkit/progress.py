"""How a long step tells what it is doing. The command line draws it; the library stays silent by default."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol

from ggufkit.errors import Interrupted


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
    def step(self, title: str, total: float | None = None) -> Iterator[Progress]:  # noqa: ARG002
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


@dataclass(frozen=True)
class Stoppable:
    """A reporter for work in a thread, which ends by Interrupted at its next word of progress after `stop` is set."""

    reporter: Reporter
    stop: threading.Event

    @contextmanager
    def step(self, title: str, total: float | None = None) -> Iterator[Progress]:
        """Open a step of the reporter."""
        with self.reporter.step(title, total) as progress:
            yield _StoppableProgress(progress, self.stop)

    def info(self, text: str) -> None:
        """Pass on."""
        self.reporter.info(text)

    def warn(self, text: str) -> None:
        """Pass on."""
        self.reporter.warn(text)


@dataclass(frozen=True)
class _StoppableProgress:
    progress: Progress
    stop: threading.Event

    def update(self, done: float, total: float | None = None, note: str = "") -> None:
        if self.stop.is_set():
            raise Interrupted("Stopped.")
        self.progress.update(done, total, note)
