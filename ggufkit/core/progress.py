"""How a long step tells what it is doing. The command line draws it; the library stays silent by default."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from ggufkit.core.errors import Interrupted

_LISTED = 8


class Progress(Protocol):
    """One step under way."""

    def update(self, done: float, total: float | None = None, note: str = "") -> None:
        """Report that `done` of `total` units are finished.

        Args:
            note: the unit, or a few words of detail; where it says what is "left", reporters do not guess that.
        """


class Reporter(Protocol):
    """Where steps report to. Implementations are thread-safe."""

    def step(self, title: str, total: float | None = None) -> AbstractContextManager[Progress]:
        """Open a step that ends with the context; `total` may become known later."""

    def info(self, text: str) -> None:
        """Say something worth reading once."""

    def warn(self, text: str) -> None:
        """Say something the user should act on, or know before trusting the result."""


class OneOfMany(str):
    """A warning that others of its kind may follow: reporters say it once, of all that it is about.

    Args:
        sentence: true of any of them, with "{}" where they are named.
        about: this one.
    """

    sentence: str
    about: str
    __slots__ = ("about", "sentence")

    def __new__(cls, sentence: str, about: str) -> OneOfMany:
        """The warning as it is said of one alone."""
        made = super().__new__(cls, sentence.replace("{}", about, 1))
        made.sentence, made.about = sentence, about
        return made


def grouped(warnings: Iterable[str]) -> list[str]:
    """Warnings, each kind once and none repeated, in the order in which they came up."""
    kinds: dict[str, dict[str, None]] = {}
    for one in warnings:
        sentence, about = (one.sentence, one.about) if isinstance(one, OneOfMany) else (one, "")
        kinds.setdefault(sentence, {})[about] = None
    return [
        sentence.replace("{}", _listed(list(all_of)), 1) if "" not in all_of else sentence
        for sentence, all_of in kinds.items()
    ]


def _listed(names: Sequence[str]) -> str:
    shown = [*names[:_LISTED], f"{len(names) - _LISTED} more"] if len(names) > _LISTED + 1 else names
    separator = "; " if any("," in name for name in names) else ", "
    return separator.join(shown)


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


class Listener:
    """Passes all on to another reporter, and keeps the warnings."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._warned: list[str] = []

    @property
    def warnings(self) -> tuple[str, ...]:
        """Each kind once."""
        return tuple(grouped(self._warned))

    def step(self, title: str, total: float | None = None) -> AbstractContextManager[Progress]:
        """Open a step of the other's."""
        return self._reporter.step(title, total)

    def info(self, text: str) -> None:
        """Pass the text on."""
        self._reporter.info(text)

    def warn(self, text: str) -> None:
        """Keep the warning, and pass it on."""
        self._warned.append(text)
        self._reporter.warn(text)


class _Unwatched:
    def update(self, done: float, total: float | None = None, note: str = "") -> None:
        pass


def end_if(stop: threading.Event | None) -> None:
    """Raise Interrupted if the event is set: for long work in a thread, which nothing else ends."""
    if stop is not None and stop.is_set():
        raise Interrupted("It was stopped.")
