"""Run the command line as a user does."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str


def ggufkit(*arguments: object, env: dict[str, str] | None = None, timeout: float = 600) -> Ended:
    """Run `ggufkit ARGUMENTS` to its end."""
    argv = [sys.executable, "-m", "ggufkit", *map(str, arguments)]
    environment = {**os.environ, "COLUMNS": "80", **(env or {})}
    done = subprocess.run(argv, capture_output=True, text=True, env=environment, timeout=timeout, check=False)
    return Ended(done.returncode, done.stdout, done.stderr)


def fails(code: int, *arguments: object, env: dict[str, str] | None = None) -> str:
    """Run a command that must fail with `code` and one message; return the message in one line."""
    ended = ggufkit(*arguments, env=env)
    assert ended.code == code, ended.err
    assert "Traceback" not in ended.err
    assert ended.err.count("Error: ") == 1, ended.err
    return " ".join(ended.err.split())
