"""What the terminal shows: progress bars where there is one, plain lines where not; results on stdout.

All that commands print goes through here, and nothing foreign in it acts: a string is one line, without markup, and its
control characters are shown as escapes. `emit` alone passes text on as it is, for programs.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.table import Column
from rich.text import Text

from ggufkit.cli.options import QUIETLY
from ggufkit.core import escape, progress, units

_PLAIN_EVERY_S, _PLAIN_SHARE = 20.0, 0.05
"""Seconds between two lines about a step, and the part of the time since its start that passes at least."""
_WIDE = 1000
_SOON_S = 2.0
"""Before that a step's pace tells nothing."""


class Screen(Console):
    """A console on which a string is one line of text, in tables too."""

    def on_broken_pipe(self) -> None:
        """Nobody reads on (`2>&1 | head -1`). What is told of the work is left out then; results end the command."""
        if not self.stderr:
            raise BrokenPipeError
        self.quiet = True

    def render_str(self, text: str, **how: Any) -> Text:
        """The text as it is, what would act in it shown as escapes."""
        return super().render_str(escape.terminal(text), **how)


def words(*parts: str | tuple[str, str]) -> Text:
    """A line of several parts, each a text or (text, style)."""
    styled = [(part, "") if isinstance(part, str) else part for part in parts]
    return Text.assemble(*((escape.terminal(text), style) for text, style in styled))


def lines(*parts: str) -> Text:
    """Lines of one cell of a table."""
    return Text("\n".join(escape.terminal(part) for part in parts))


def say(text: str, *, err: bool = False, dim: bool = False) -> None:
    """Print one line."""
    click.echo(_styled(escape.terminal(text), dim), err=err)


def stream(text: str, *, dim: bool = False) -> None:
    """Print a piece of a longer text on stdout, its line breaks kept."""
    click.echo(_styled(escape.terminal(text, lines=True), dim), nl=False)


def _styled(text: str, dim: bool) -> str:
    return click.style(text, dim=True) if dim else text


def emit(text: str) -> None:
    """Print what programs read, as it is: JSON, a Modelfile."""
    click.echo(text, nl=False, color=True)


def emit_path(path: Path) -> None:
    """Print a path on stdout: as it is for a program, as `say` where somebody looks."""
    click.echo(escape.terminal(str(path)) if sys.stdout.isatty() else path, color=True)


def console(*, stderr: bool = True) -> Screen:
    """A console on stderr for what is said, on stdout for results. In a file or a pipe no line is broken."""
    made = Screen(stderr=stderr, highlight=False, markup=False, emoji=False)
    made.soft_wrap = not (stderr or made.is_terminal)
    if not is_watched(made) and "COLUMNS" not in os.environ:
        made.width = _WIDE
    return made


def is_watched(screen: Console) -> bool:
    """Whether somebody looks at it: a terminal, or a notebook."""
    return screen.is_terminal or screen.is_jupyter


@contextmanager
def reporting() -> Iterator[progress.Reporter]:
    """The reporter for this terminal, with its live display if it has one."""
    screen, context = console(), click.get_current_context(silent=True)
    if context is not None and context.meta.get(QUIETLY):
        quiet = QuietReporter(screen)
        with quiet.warning_at_the_end():
            yield quiet
        return
    if not is_watched(screen) or (screen.is_jupyter and find_spec("ipywidgets") is None):
        plain = PlainReporter(screen)
        with plain.warning_at_the_end():
            yield plain
        return
    name = TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True, ratio=1))
    with Progress(name, BarColumn(bar_width=10), _State(), console=screen, transient=True, expand=True) as live:
        drawn = RichReporter(live)
        with drawn.warning_at_the_end():
            yield drawn


def state(done: float, total: float | None, note: str, seconds: float) -> str:
    """How far a step is, and what is left of it: "7/41 · 12 min left", "3/60 chunks · 40 s left", "12 s"."""
    if not total:
        gone = f"{seconds:.0f} s" if seconds < 100 else units.duration(seconds)
        return " · ".join(filter(None, [note, gone if seconds >= 1 else ""]))
    says_left = note.endswith(" left")
    is_share = note.startswith("%")
    counted = f"{done:.0f} {note}" if is_share else f"{done:.0f}/{total:.0f}"
    counted += "" if says_left or is_share or not note else f" {note}"
    left = note if says_left else ""
    if not says_left and seconds >= _SOON_S and 0 < done < total:
        left = f"{units.rough(seconds * (total - done) / done)} left"
    return f"{counted} · {left}" if left else counted


class _State(ProgressColumn):
    """`state` of a step that is drawn."""

    def render(self, task: Task) -> Text:
        """Draw it."""
        return Text(state(task.completed, task.total, task.fields["note"], task.elapsed or 0.0), no_wrap=True)


class _Said:
    """What both reporters print in the same words."""

    def __init__(self, screen: Console) -> None:
        self.screen = screen
        self._warned: dict[str, None] = {}

    @contextmanager
    def warning_at_the_end(self) -> Iterator[None]:
        """Say at the end of the context what is said of many at once."""
        try:
            yield
        finally:
            for text in progress.grouped(w for w in self._warned if isinstance(w, progress.OneOfMany)):
                self._warn(text)

    def info(self, text: str) -> None:
        """Print a remark."""
        self.screen.print(text, style="dim")

    def warn(self, text: str) -> None:
        """Print a warning once; one of many at the end, with the others."""
        if text not in self._warned and not isinstance(text, progress.OneOfMany):
            self._warn(text)
        self._warned[text] = None

    def _warn(self, text: str) -> None:
        self.screen.print(words(("Warning:", "yellow"), f" {text}"))

    def done(self, title: str, seconds: float) -> None:
        """Print that a step ended."""
        self.screen.print(words(("✓", "green"), f" {title} ", (units.duration(seconds), "dim")))


class RichReporter(_Said):
    """Draws a bar for each step under way, and one line when it is done."""

    def __init__(self, live: Progress) -> None:
        super().__init__(live.console)
        self.live = live

    @contextmanager
    def step(self, title: str, total: float | None = None) -> Iterator[progress.Progress]:
        """Draw a step."""
        started = time.monotonic()
        task = self.live.add_task(escape.terminal(title), total=total, note="")
        try:
            yield _Bar(self.live, task)
        finally:
            self.live.remove_task(task)
        self.done(title, time.monotonic() - started)


class _Bar:
    def __init__(self, live: Progress, task: TaskID) -> None:
        self.live = live
        self.task = task

    def update(self, done: float, total: float | None = None, note: str = "") -> None:
        """Move the bar."""
        self.live.update(
            self.task, completed=round(done), total=total and round(total), note=escape.terminal(note)
        )


class QuietReporter(_Said):
    """Prints warnings alone."""

    def info(self, text: str) -> None:
        """Leave it out."""

    @contextmanager
    def step(self, title: str, total: float | None = None) -> Iterator[progress.Progress]:  # noqa: ARG002 - the protocol's signature
        """Say nothing of it."""
        with progress.SilentReporter().step("") as unseen:
            yield unseen


class PlainReporter(_Said):
    """Prints a line when a step starts, now and then while it runs, and when it ends."""

    @contextmanager
    def step(self, title: str, total: float | None = None) -> Iterator[progress.Progress]:
        """Announce a step."""
        started = time.monotonic()
        self.screen.print(f"… {title}")
        yield _Lines(self.screen, title, total)
        self.done(title, time.monotonic() - started)


class _Lines:
    def __init__(self, screen: Console, title: str, total: float | None) -> None:
        self.screen = screen
        self.title = title
        self.total = total
        self.started = self.last = time.monotonic()
        self.lock = threading.Lock()

    def update(self, done: float, total: float | None = None, note: str = "") -> None:
        """Print how far the step is, every 20 seconds at most, and less often the longer it takes."""
        self.total = total or self.total
        with self.lock:
            if time.monotonic() - self.last < max(_PLAIN_EVERY_S, _PLAIN_SHARE * (self.last - self.started)):
                return
            self.last = time.monotonic()
        self.screen.print(f"  {self.title}: {state(done, self.total, note, self.last - self.started)}")
