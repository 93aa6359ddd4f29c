"""A sweep as a person watches it: one table that is drawn anew on a terminal, plain lines elsewhere; at the end what failed.

All of it fits into 80 columns, however many models there are: what is done, and what waits, collapses into a line each.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import click
from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ggufkit.cli.options import QUIETLY
from ggufkit.cli.terminal import Screen, console, is_watched, words
from ggufkit.cli.terminal import lines as in_lines
from ggufkit.core import escape, units
from ggufkit.sweep import status
from ggufkit.sweep.places import Places
from ggufkit.sweep.records import Event, Outcome
from ggufkit.sweep.status import Board, Line, Tally

_HEADS = {"quantize": "quant", "measure": "meas", "finish": "end"}
WIDTH, _LEAST_NAME, _AT_WORK = 80, 12, 4
_PER_SECOND, _PLAIN_EVERY_S = 2, 60.0
_REST = 20
"""Times as long as a drawing takes nothing is drawn."""
_MOST_COUNTED, _MOST_LINES = 99, 100
_MOST_WARNINGS = 20
_WARNING_LINES = 2
"""Of the latest warning, while jobs are at work."""
_TAIL = 3 + _WARNING_LINES
"""Lines around the table: how far all is, a warning, and the dashboard."""


class Drawing:
    """A board as it is at the moment in which it is drawn; of many models less often, so that it costs little."""

    def __init__(self, board: Board, lock: threading.Lock) -> None:
        self._board, self._lock = board, lock
        self._drawn, self._at, self._cost = Group(), 0.0, 0.0

    def __rich_console__(self, screen: Console, options: ConsoleOptions) -> RenderResult:
        """Draw it, within the height of the terminal."""
        began = time.monotonic()
        if began - self._at >= _REST * self._cost:
            most = max(options.max_height - _AT_WORK - _TAIL - 2, 3)
            with self._lock:
                self._drawn = Group(*parts(self._board, time.time(), options.max_width, most))
            self._at = time.monotonic()
            self._cost = self._at - began
        yield self._drawn


@contextmanager
def watching(places: Places) -> Iterator[Callable[[Event], None]]:
    """Show a sweep for the length of a context, as its events tell it; at the end what failed, and why.

    Returns:
        Who is to hear each event; from any thread.
    """
    screen, board, lock = console(), Board(), threading.Lock()
    context = click.get_current_context(silent=True)
    is_quiet = context is not None and bool(context.meta.get(QUIETLY))
    plain = None if is_quiet or is_watched(screen) else Plain(screen, board)

    def hear(event: Event) -> None:
        with lock:
            board.hear(event)
            if plain is not None:
                plain.tell(event)

    try:
        if plain is not None or is_quiet:
            yield hear
        else:
            with Live(Drawing(board, lock), console=screen, refresh_per_second=_PER_SECOND, transient=True):
                yield hear
    finally:
        with lock:
            for part in closing(board, places):
                screen.print(part)


class Plain:
    """Prints a line for each job that ended, and now and then how far all is."""

    def __init__(self, screen: Screen, board: Board) -> None:
        self.screen, self.board, self.last = screen, board, time.monotonic()

    def tell(self, event: Event) -> None:
        """Print what is worth a line of an event."""
        if event.kind == "sweep" and self.board.driver.dashboard:
            self.screen.print(f"Dask's dashboard: {self.board.driver.dashboard}")
        elif event.kind in ("refused", "paused", "resumed"):
            self.screen.print(f"A worker is {event.kind}: {event.text}")
        elif event.kind == "lost":
            self.screen.print(f"Lost: {event.text}")
        elif event.kind == "warned" and len(self.board.warned[event.text]) == 1:
            self.screen.print(_warning(event.text, [event.job]))
        elif event.kind == "retried":
            self.screen.print(f"Again: {status.words(event.job)} {event.text}".rstrip())
        elif event.outcome is not None and event.outcome.state in ("done", "failed"):
            self.screen.print(_ended(event.outcome))
        if time.monotonic() - self.last > _PLAIN_EVERY_S:
            self.last = time.monotonic()
            self.screen.print(far(self.board, time.time()))


def _ended(outcome: Outcome) -> Text:
    said = status.words(outcome.job)
    if outcome.state == "failed":
        return words(("✗", "red"), f" {said}: {outcome.message}")
    where = f" on {outcome.worker}" if outcome.worker else ""
    return words(("✓", "green"), f" {said} ", (f"{units.duration(outcome.seconds)}{where}", "dim"))


def parts(board: Board, now: float, width: int = WIDTH, most: int = _MOST_LINES) -> Iterator[Text | Table]:
    """A board, its table of at most so many lines, and what is at work."""
    yield table(board, width, most)
    for job in board.running[:_AT_WORK]:
        told = (
            f"{escape.terminal(status.words(job.job))} · {escape.terminal(job.worker)} · {_since(now - job.since)}"
        )
        yield words(_short(f"▸ {told}", width))
    more = len(board.running) - _AT_WORK
    yield words(far(board, now) + (f" · {more} more at work" if more > 0 else ""))
    for text, jobs in list(board.warned.items())[-1:]:
        yield words(_short(_warning(text, jobs).plain, _WARNING_LINES * width))
    if board.driver.dashboard:
        yield words((f"Dask's dashboard: {board.driver.dashboard}", "dim"))


def table(board: Board, width: int = WIDTH, most: int = _MOST_LINES) -> Table:
    """Models by stages: a tick for what is done, how many of how many else."""
    stages, lines = board.stages, board.lines
    shown, collapsed = _chosen(lines, most)
    cells = {line.cell: [_cell(line.stages.get(stage)) for stage in stages] for line in shown}
    heads = [_HEADS.get(stage, stage) for stage in stages]
    taken = sum(max([len(head), *(len(row[i]) for row in cells.values())]) + 1 for i, head in enumerate(heads))
    room = max(width - taken - 1, _LEAST_NAME)
    found = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    found.add_column("model", no_wrap=True)
    for head in heads:
        found.add_column(head, justify="right", no_wrap=True)
    for line in shown:
        found.add_row(words(_middle(escape.terminal(line.cell), room)), *cells[line.cell])
    for said in collapsed:
        found.add_row(words((_short(said, room), "dim")))
    return found


def _chosen(lines: Sequence[Line], most: int) -> tuple[list[Line], list[str]]:
    """Which lines are shown, and what is said of the others."""
    if len(lines) <= most:
        return list(lines), []
    active = [line for line in lines if not (line.is_done or line.is_waiting)]
    urgent = sorted(active, key=lambda line: -line.whole.running)[: max(most - 3, 1)]
    shown = [line for line in active if line in urgent]
    counts = {
        "done": sum(line.is_done for line in lines),
        "more begun": len(active) - len(shown),
        "waiting": sum(line.is_waiting for line in lines),
    }
    return shown, [f"{n} {what}" for what, n in counts.items() if n]


def _cell(tally: Tally | None) -> Text:
    if tally is None:
        return words("")
    if not tally.left and not tally.failed:
        return words(("✓", "green"))
    mark = "!" if tally.failed else ""
    if tally.total == 1:
        return words(("✗", "red")) if mark else words(("▸", "cyan")) if tally.running else words(("·", "dim"))
    counted = (
        f"{tally.done}/{tally.total}" if tally.total <= _MOST_COUNTED else f"{100 * tally.done // tally.total}%"
    )
    style = "red" if mark else "cyan" if tally.running else "" if tally.done else "dim"
    return words((counted + mark, style))


def far(board: Board, now: float) -> str:
    """How far all is, in a line: "312 of 960 jobs · 18 fresh · 3 failed · after 12 min · 40 min left"."""
    whole = board.whole
    left = None if board.end else board.seconds_left(now)
    told = {
        f"{whole.ended['fresh']} fresh": whole.ended["fresh"],
        f"{whole.ended['failed']} failed": whole.ended["failed"],
        f"{whole.ended['skipped']} skipped": whole.ended["skipped"],
        f"{board.retried} tried again": board.retried,
        f"{len(board.warned)} warning{'' if len(board.warned) == 1 else 's'}": board.warned,
        f"after {_since(now - board.started)}": board.started,
        f"{units.rough(left or 0)} left": left,
    }
    known = "" if board.is_planned else "at least "
    return " · ".join(
        [f"{whole.done:,} of {known}{whole.total:,} jobs", *(text for text, is_there in told.items() if is_there)]
    )


def closing(board: Board, places: Places) -> Iterator[Text | Table | str]:
    """What failed, and why; where the logs are."""
    failures, skipped = board.failures, board.skipped
    yield from _warnings(board)
    if not failures:
        return
    yield words((f"{len(failures)} of {board.whole.total} jobs failed:", "bold"))
    found = Table(box=None, show_header=False, padding=(0, 1, 0, 0))
    found.add_column(no_wrap=False, overflow="fold", ratio=2)
    found.add_column(overflow="fold", ratio=3)
    for outcome in failures[:_MOST_LINES]:
        found.add_row(words((status.words(outcome.job), "red")), _why(outcome, skipped))
    yield found
    if len(failures) > _MOST_LINES:
        yield f"and {len(failures) - _MOST_LINES} more: {places.journal}"
    yield f"Logs: {places.log('x||').parent.parent}"


def _warnings(board: Board) -> Iterator[Text]:
    """Each warning once, with the jobs that gave it."""
    for text, jobs in list(board.warned.items())[:_MOST_WARNINGS]:
        yield _warning(text, jobs)
    if len(board.warned) > _MOST_WARNINGS:
        yield words(f"{len(board.warned) - _MOST_WARNINGS} more warnings are in the logs.")


def _warning(text: str, jobs: Sequence[str]) -> Text:
    about = status.words(jobs[0]) if jobs[0] else ""
    more = f" and {len(jobs) - 1} more" if len(jobs) > 1 else ""
    return words(("Warning:", "yellow"), f" {text}", (f" ({about}{more})" if about else "", "dim"))


def _why(outcome: Outcome, skipped: Mapping[str, int]) -> Text:
    count = skipped.get(outcome.job, 0)
    lost = f"{count} job{'' if count == 1 else 's'} behind it could not be done." if count else ""
    return in_lines(*(part for part in (outcome.message, outcome.hint, lost) if part))


def _since(seconds: float) -> str:
    return units.rough(max(seconds, 0.0))


def _short(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"


def _middle(text: str, width: int) -> str:
    """A name without its middle: what tells models apart is at both ends."""
    if len(text) <= width:
        return text
    tail = (width - 1) // 2
    return f"{text[: width - 1 - tail]}…{text[-tail:]}"
