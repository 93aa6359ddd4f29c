"""Where a sweep keeps what is its own: below its output directory, out of the way of results."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from ggufkit.sweep.journal import JOURNAL

CSV, HTML = "sweep.csv", "sweep.html"
_UNSAFE = re.compile(r"[^\w.+=-]+")


@dataclass(frozen=True)
class Places:
    """The files of a sweep.

    Args:
        out: its output directory.
    """

    out: Path

    @property
    def root(self) -> Path:
        """The directory of all but the results."""
        return self.out / ".ggufkit" / "sweep"

    @property
    def journal(self) -> Path:
        """What happened."""
        return self.root / JOURNAL

    @property
    def lock(self) -> Path:
        """Held by the driver as long as it lives."""
        return self.root / "lock"

    @property
    def stop(self) -> Path:
        """There where somebody asked the driver to stop; whoever begins a sweep removes it."""
        return self.root / "stop"

    @property
    def said(self) -> Path:
        """What a driver says that nobody watches."""
        return self.root / "sweep.log"

    def log(self, job: str) -> Path:
        """The log of a job, by its id."""
        return self.root / "logs" / f"{file_name(job)}.log"


def file_name(job: str) -> str:
    """The id of a job as the name of a file: the cell's directory, then what is done. Two jobs never have the same."""
    cell, *what = job.split("|")
    name = "-".join(part for part in what if part)
    safe = _UNSAFE.sub("_", name)
    return f"{cell}/{safe}" if safe == name else f"{cell}/{safe}-{hashlib.sha256(job.encode()).hexdigest()[:8]}"
