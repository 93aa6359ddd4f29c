"""What a job says while it is at work: into its log, and to the driver."""

from __future__ import annotations

import contextlib
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from ggufkit.core import progress, units
from ggufkit.core.progress import grouped
from ggufkit.sweep.places import Places
from ggufkit.sweep.station import Station
from ggufkit.sweep.stores import StoreError

_TELL_S, _WRITE_S = 2.0, 5.0


class JobLog:
    """A reporter that writes a job's log into the store, and tells the driver how far it is."""

    def __init__(self, job: str, here: Station) -> None:
        self._job, self._here = job, here
        self._name = Places(Path()).log(job).as_posix()
        self._lines: list[str] = []
        self._warned: list[str] = []
        self._written = self._told = 0.0

    def __enter__(self) -> JobLog:
        self._say(f"{self._job} on {self._here.name}, {self._here.host}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        for text in grouped(self._warned):
            self._say(f"Warning: {text}")
            self._here.tell({"kind": "warned", "job": self._job, "text": text})
        self._write()

    @contextlib.contextmanager
    def step(self, title: str, total: float | None = None) -> Iterator[progress.Progress]:
        """Note when a step begins and how long it took."""
        started = time.monotonic()
        self._say(f"… {title}")
        yield _Told(self, title, total)
        self._say(f"✓ {title} {units.duration(time.monotonic() - started)}")

    def info(self, text: str) -> None:
        """Note a remark."""
        self._say(text)

    def warn(self, text: str) -> None:
        """Note a warning; the driver hears it at the end."""
        self._warned.append(text)

    def end(self, message: str, hint: str, bug: Exception | None) -> None:
        """Note why it failed."""
        self._say(f"Error: {message}")
        self._say(f"  {hint}" if hint else "")
        self._say("".join(traceback.format_exception(bug)) if bug is not None else "")

    def far(self, title: str, done: float, total: float | None, note: str) -> None:
        """Tell the driver now and then how far a step is."""
        if time.monotonic() - self._told >= _TELL_S:
            self._told = time.monotonic()
            told = {"title": title, "done": done, "total": total, "note": note}
            self._here.tell({"kind": "progress", "job": self._job, **told})

    def _say(self, line: str) -> None:
        if line:
            self._lines.append(line)
        if time.monotonic() - self._written >= _WRITE_S:
            self._write()

    def _write(self) -> None:
        """What is not in the store yet is missed by nobody who waits for the job."""
        self._written = time.monotonic()
        with contextlib.suppress(OSError, StoreError):
            self._here.store.write(self._name, ("\n".join(self._lines) + "\n").encode())


class _Told:
    """A step under way."""

    def __init__(self, log: JobLog, title: str, total: float | None) -> None:
        self._log, self._title, self._total = log, title, total

    def update(self, done: float, total: float | None = None, note: str = "") -> None:
        """See `Progress`."""
        self._total = total or self._total
        self._log.far(self._title, done, self._total, note)
