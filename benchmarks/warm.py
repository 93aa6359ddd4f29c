"""Converter and transformers, imported once and forked for each use: of eight seconds of a conversion six are imports."""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ggufkit.core import process
from ggufkit.core.errors import Interrupted
from ggufkit.core.process import ToolOutput

_SERVED = ("ggufkit.llama.launcher", "ggufkit.llama.reference")
_context = multiprocessing.get_context("forkserver")
_run = process.run


def begin() -> None:
    """From now on `process.run` forks what is imported already instead of starting Python anew."""
    _context.set_forkserver_preload(
        ["transformers.models.auto.modeling_auto", "transformers.modeling_utils", "sentencepiece", *_SERVED]
    )
    process.run = run


def end() -> None:
    """Undo `begin`."""
    process.run = _run


def run(argv: Sequence[str | Path], **more: Any) -> ToolOutput:
    """`process.run`; modules of ggufkit's own that import much are forked."""
    command = [str(a) for a in argv]
    if command[1:2] != ["-m"] or command[2] not in _SERVED:
        return _run(argv, **more)
    return call(_main, (command[2], command[3:]), tuple(command), more.get("cancel"), more.get("log"))


def call(
    work: Callable[..., int],
    arguments: tuple[Any, ...],
    command: tuple[str, ...] = ("fork",),
    cancel: threading.Event | None = None,
    log: Path | None = None,
) -> ToolOutput:
    """Run a function in a fork; what it returns is the exit code."""
    with tempfile.TemporaryDirectory() as home:
        out, err = Path(home, "out"), Path(home, "err")
        out.touch()
        err.touch()
        child = _context.Process(target=_in_fork, args=(work, arguments, str(out), str(err)))
        child.start()
        while child.is_alive():
            child.join(0.1)
            if cancel is not None and cancel.is_set():
                child.kill()
        if cancel is not None and cancel.is_set():
            raise Interrupted("stopped")
        said, complained = (f.read_text(encoding="utf-8", errors="replace") for f in (out, err))
    if log is not None:
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(said + complained, encoding="utf-8")
    return ToolOutput(command, child.exitcode or 0, said, complained, 0.0, log)


def _in_fork(work: Callable[..., int], arguments: tuple[Any, ...], out: str, err: str) -> None:
    for number, file in ((1, out), (2, err)):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), number)
    code = 1
    try:
        code = work(*arguments)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        sys.exit(code)


def _main(module: str, argv: list[str]) -> int:
    from ggufkit.llama import launcher, reference

    if module.endswith("launcher"):
        return launcher.main(argv)
    reference.main(argv)
    return 0
