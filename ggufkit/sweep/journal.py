"""The journal of a sweep: one line of JSON an event, written by the driver alone, read by whoever wants to know.

A driver that is killed leaves its last line cut. Whoever goes on begins a new one, and what is no whole line is skipped.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from ggufkit.sweep.records import Event, Job, Outcome

JOURNAL = "journal.jsonl"


@dataclass(frozen=True)
class Driver:
    """Who runs a sweep, as the event "sweep" tells it.

    Args:
        dashboard: the address of Dask's dashboard, "" where there is none.
    """

    host: str
    pid: int
    dashboard: str = ""
    ggufkit: str = ""

    @classmethod
    def of(cls, event: Event) -> Driver:
        """Of the event "sweep"; without names where its text is no such thing."""
        import msgspec

        try:
            return msgspec.json.decode(event.text, type=cls)
        except msgspec.DecodeError:
            return cls("", 0)


class Journal:
    """A journal that is written: each event is in the file when `append` returns.

    Args:
        path: the file, made with its directory where it is missing.

    Raises:
        OSError: it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        cut = _is_cut(path)
        self._file = path.open("ab", buffering=0)
        if cut:
            self._file.write(b"\n")

    def append(self, event: Event) -> Event:
        """Write an event, and give it back."""
        import msgspec

        self._file.write(msgspec.json.encode(event) + b"\n")
        return event

    def close(self) -> None:
        """Nothing is written afterwards."""
        self._file.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self.close()


def began(driver: Driver) -> Event:
    """A sweep begins, or goes on: what was said of its jobs before counts no more."""
    import msgspec

    return Event(time.time(), "sweep", text=msgspec.json.encode(driver).decode())


def planned(cell: str, jobs: Iterable[Job]) -> Event:
    """The jobs of a cell, as far as they are known by now; said again when more are."""
    import msgspec

    counts = Counter(job.stage for job in jobs)
    return Event(time.time(), "planned", job=cell, text=msgspec.json.encode(counts).decode())


def planned_stages(event: Event) -> Mapping[str, int]:
    """How many jobs of each stage a cell has, of the event "planned"."""
    import msgspec

    try:
        return msgspec.json.decode(event.text, type=dict[str, int])
    except msgspec.DecodeError:
        return {}


def ended(outcome: Outcome) -> Event:
    """A job ended."""
    return Event(time.time(), "ended", outcome.job, outcome)


def read(path: Path) -> Iterator[Event]:
    """The events of a journal from the first to the last; none where there is no journal. Lines that were cut are skipped.

    Raises:
        OSError: it is there and cannot be read.
    """
    import msgspec

    decoder = msgspec.json.Decoder(Event)
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        for line in file:
            try:
                yield decoder.decode(line)
            except msgspec.DecodeError:
                continue


def _is_cut(path: Path) -> bool:
    """Whether a journal's last line has no end."""
    try:
        with path.open("rb") as file:
            file.seek(0, 2)
            if file.tell() == 0:
                return False
            file.seek(-1, 2)
            return file.read(1) != b"\n"
    except FileNotFoundError:
        return False
