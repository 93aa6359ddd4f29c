"""A sweep as somebody sees it who does not run it: is it at work, how far is it; and asking it to stop."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from ggufkit.core import locks
from ggufkit.core.errors import InputError
from ggufkit.sweep import journal
from ggufkit.sweep.places import Places
from ggufkit.sweep.status import Board

_EVERY_S = 0.2


@dataclass(frozen=True)
class Seen:
    """A sweep at this moment.

    Args:
        is_held: whether its lock is; None where this user may not ask.
    """

    places: Places
    board: Board
    is_held: bool | None

    @property
    def state(self) -> str:
        """One of "running", "finished", "stopped" and "killed"."""
        if self.is_held or (self.is_held is None and not self.board.end):
            return "running"
        return self.board.end or "killed"

    @property
    def now(self) -> float:
        """Until when its time is counted: of one that ended, until its last word."""
        return time.time() if self.state == "running" else self.board.latest

    @property
    def words(self) -> str:
        """Whether it is at work, and where, or how it ended, and what to do then."""
        driver, whole = self.board.driver, self.board.whole
        where = f"on {driver.host}, process {driver.pid}" if driver.host else "elsewhere"
        if self.state == "running":
            return f"The sweep is at work {where}."
        if self.state == "finished" and not whole.failed:
            return "The sweep is finished."
        again = "The same command goes on from there."
        if self.state == "finished":
            return f"The sweep ended; not all could be done. {again}"
        if self.state == "stopped":
            return f"The sweep was stopped. {again}"
        return f"The sweep was killed, or its machine was ({where}): nothing works on it now. {again}"


def look(places: Places) -> Seen:
    """What is known of a sweep now.

    Raises:
        InputError: none ever began there.
    """
    if not places.journal.exists() or (not size_of(places.journal) and is_at_work(places) is False):
        message = f"{places.out} holds no sweep: none has begun there yet."
        raise InputError(message, hint="Begin it with `ggufkit sweep FILE`; or name the --out that it was given.")
    held = is_at_work(places)  # before the journal is read: what ends in between has said so
    seen = Seen(places, Board(journal.read(places.journal)), held)
    if seen.state != "running":
        seen.board.halt()
    return seen


def is_at_work(places: Places) -> bool | None:
    """Whether a driver is alive; None where this user may not ask."""
    if not places.lock.exists():
        return False
    try:
        return locks.is_held(places.lock)
    except OSError:
        return None


def ask_to_stop(places: Places) -> None:
    """Ask the driver to stop, wherever it runs. Raises OSError where its directory cannot be written."""
    places.stop.touch()


def is_asked_to_stop(places: Places) -> bool:
    """Whether somebody asked so since the sweep began: for the driver, which looks every second or so."""
    return places.stop.exists()


def wait_for_end(places: Places, seconds: float) -> bool:
    """Wait until no driver is alive any more. Returns whether that came within the time."""
    deadline = time.monotonic() + seconds
    while is_at_work(places) is not False:
        if time.monotonic() > deadline:
            return False
        time.sleep(_EVERY_S)
    return True


def has_begun(places: Places, before: int) -> bool:
    """Whether something was written into a journal that was of so many bytes, or into a new one in its place."""
    return 0 < size_of(places.journal) != before


def size_of(file: Path) -> int:
    """The bytes of a file, 0 where there is none."""
    return file.stat().st_size if file.exists() else 0
