"""What the terminal shows: progress bars where there is one, plain lines where not. All of it on stderr."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from ggufkit.core import progress

_PLAIN_EVERY_S = 20.0
_WIDE = 1000


def console(*, stderr: bool = True) -> Console:
    """A console on stderr for what is said, on stdout for results. In a file or a pipe no line is broken."""
    made = Console(stderr=stderr, highlight=False, soft_wrap=not stderr)
    if not made.is_terminal and "COLUMNS" not in os.environ:
        made.width = _WIDE
    return made


@contextmanager
def reporting() -> Iterator[progress.Reporter]:
    """The reporter for this terminal, with its live display if it has one."""
    screen = console()
    if not screen.is_terminal:
        yield PlainReporter(screen)
        return
    columns = (
        TextColumn("{task.description}"), BarColumn(bar_width=16), MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"), TimeElapsedColumn(),
    )  # fmt: skip
    with Progress(*columns, console=screen, transient=True) as live:
        yield RichReporter(live)


class _Said:
    """What both reporters print in the same words."""

    def __init__(self, screen: Console) -> None:
        self.screen = screen

    def info(self, text: str) -> None:
        """Print a remark."""
        self.screen.print(escape(text), style="dim")

    def warn(self, text: str) -> None:
        """Print a warning."""
        self.screen.print(f"[yellow]Warning:[/yellow] {escape(text)}")

    def done(self, title: str, seconds: float) -> None:
        """Print that a step ended."""
        self.screen.print(f"[green]✓[/green] {escape(title)} [dim]{seconds:.1f} s[/dim]")


class RichReporter(_Said):
    """Draws a bar for each step under way, and one line when it is done."""

    def __init__(self, live: Progress) -> None:
        super().__init__(live.console)
        self.live = live

    @contextmanager
    def step(self, title: str, total: float | None = None) -> Iterator[progress.Progress]:
        """Draw a step."""
        started = time.monotonic()
        task = self.live.add_task(escape(title), total=total, note="")
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
        self.live.update(self.task, completed=round(done), total=total and round(total), note=escape(note))


class PlainReporter(_Said):
    """Prints a line when a step starts, now and then while it runs, and when it ends."""

    @contextmanager
    def step(self, title: str, total: float | None = None) -> Iterator[progress.Progress]:
        """Announce a step."""
        started = time.monotonic()
        self.screen.print(f"… {escape(title)}")
        yield _Lines(self.screen, title, total)
        self.done(title, time.monotonic() - started)


class _Lines:
    def __init__(self, screen: Console, title: str, total: float | None) -> None:
        self.screen = screen
        self.title = title
        self.total = total
        self.last = time.monotonic()
        self.lock = threading.Lock()

    def update(self, done: float, total: float | None = None, note: str = "") -> None:
        """Print how far the step is, every 20 seconds at most."""
        self.total = total or self.total
        with self.lock:
            if time.monotonic() - self.last < _PLAIN_EVERY_S:
                return
            self.last = time.monotonic()
        of = f"/{self.total:.0f}" if self.total else ""
        self.screen.print(f"  {escape(self.title)}: {done:.0f}{of} {escape(note)}")
