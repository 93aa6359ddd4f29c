"""Run the command line as a user does: each command in a process of its own."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

# Half of a command's time would be spent on importing these. On Linux commands are forked from a process that has
# done so; none of them reads its settings from the environment of a test.
_LARGE = [
    "click",
    "gguf",
    "jinja2",
    "matplotlib.figure",
    "pandas",
    "rich.progress",
    "safetensors.numpy",
    "tokenizers",
]
_processes = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
if sys.platform == "linux":
    _processes.set_forkserver_preload(_LARGE)


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str


def ggufkit(*arguments: object, env: dict[str, str] | None = None, timeout: float = 600) -> Ended:
    """Run `ggufkit ARGUMENTS` to its end."""
    environment = {**os.environ, "COLUMNS": "80", **(env or {})}
    if any(name.startswith("PYTHON") for name in env or ()):  # read when Python starts
        argv = [sys.executable, "-m", "ggufkit", *map(str, arguments)]
        done = subprocess.run(argv, capture_output=True, text=True, env=environment, timeout=timeout, check=False)
        return Ended(done.returncode, done.stdout, done.stderr)
    with tempfile.TemporaryDirectory() as home:
        out, err = Path(home, "out"), Path(home, "err")
        running = start(*arguments, env=environment, out=out, err=err)
        running.join(timeout)
        if running.exitcode is None:
            running.kill()
            raise subprocess.TimeoutExpired(list(map(str, arguments)), timeout)
        return Ended(running.exitcode, out.read_text(encoding="utf-8"), err.read_text(encoding="utf-8"))


def start(
    *arguments: object, env: Mapping[str, str] = os.environ, out: Path | None = None, err: Path | None = None
) -> BaseProcess:
    """Start `ggufkit ARGUMENTS`, and write what it says into files, or nowhere."""
    said = [str(file or os.devnull) for file in (out, err)]
    how = (list(map(str, arguments)), dict(env), str(Path.cwd()), *said)
    running = _processes.Process(target=_main, args=how)  # type: ignore[attr-defined]
    running.start()
    return running  # type: ignore[no-any-return]


def _main(arguments: list[str], env: dict[str, str], cwd: str, out: str, err: str) -> None:
    """The new process: `python -m ggufkit`, with streams and an environment of its own."""
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    for number, file in enumerate((os.devnull, out, err)):
        os.dup2(os.open(file, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600), number)
    with ExitStack() as streams:
        sys.stdout = streams.enter_context(open(1, "w", encoding="utf-8", closefd=False))
        sys.stderr = streams.enter_context(open(2, "w", encoding="utf-8", buffering=1, closefd=False))
        sys.argv = ["ggufkit", *arguments]
        from ggufkit.cli import main

        main()


def fails(code: int, *arguments: object, env: dict[str, str] | None = None) -> str:
    """Run a command that must fail with `code` and one message; return the message in one line."""
    ended = ggufkit(*arguments, env=env)
    assert ended.code == code, ended.err
    assert "Traceback" not in ended.err
    assert ended.err.count("Error: ") == 1, ended.err
    return " ".join(ended.err.split())
