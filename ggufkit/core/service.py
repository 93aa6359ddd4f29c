"""A tool that goes on working while ggufkit does something else: a server."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ggufkit.core import process
from ggufkit.core.process import Started, Surroundings, ToolOutput

_GRACE_S = 2.0
"""What a service may take to end by itself: with what ggufkit needs around it on a busy machine, five seconds."""


@dataclass(frozen=True)
class Service:
    """A running tool. Its output goes into its log and is kept nowhere else, however long it runs."""

    argv: tuple[str, ...]
    log: Path
    process: Started

    def ended(self) -> ToolOutput | None:
        """How it ended, None while it works."""
        return None if self.process.poll() is None else self.said()

    def wait(self) -> ToolOutput:
        """Wait until it ends by itself."""
        self.process.wait()
        return self.said()

    def said(self) -> ToolOutput:
        """What it has said so far."""
        said = self.log.read_text(encoding="utf-8", errors="replace")
        return ToolOutput(self.argv, self.process.returncode or 0, said.partition("\n")[2], "", 0.0, self.log)


@contextlib.contextmanager
def running(argv: Sequence[str | Path], log: Path, where: Surroundings | None = None) -> Iterator[Service]:
    """Run a tool for the length of a context, and end it then: with SIGTERM, and with SIGKILL when that takes long.

    Raises:
        ToolError: the program could not be started.
        OSError: the log could not be written.
    """
    command = tuple(str(a) for a in argv)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as sink:
        sink.write(f"$ {shlex.join(command)}\n".encode())
        sink.flush()
        started = process.start(command, where or Surroundings(), feed=False, into=sink)
    try:
        yield Service(command, log, started)
    finally:
        process.end(started, _GRACE_S)
        process.forget(started)
