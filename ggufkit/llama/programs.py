"""Programs that a build needs."""

from __future__ import annotations

import os
import re
import shutil
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from ggufkit.core import extras, process
from ggufkit.core.errors import ToolchainError
from ggufkit.core.locks import waiting_lock
from ggufkit.core.paths import cache_dir
from ggufkit.core.process import Surroundings
from ggufkit.core.progress import Reporter

_TARGETED = Surroundings({"PIP_USER": "0"})  # pip refuses --target where a user's configuration says --user
_PACKAGES = {"cmake": "cmake>=3.28", "ninja": "ninja>=1.11"}
_OLDEST = {"cmake": (3, 21)}
"""What llama.cpp's own files ask for, the most demanding backend's (HIP) included."""


def find_program(name: str) -> str | None:
    """A program on PATH or in this Python's own scripts directory."""
    return next(_found(name), None)


def find_recent(name: str) -> str | None:
    """The same, but for one that says that it is older than what llama.cpp can be built with."""
    return next((program for program in _found(name) if not _is_too_old(name, program)), None)


def _found(name: str) -> Iterator[str]:
    places = (os.environ.get("PATH", os.defpath), str(Path(sys.executable).parent))
    return filter(None, (shutil.which(name, path=place) for place in places))


def _is_too_old(name: str, program: str) -> bool:
    if name not in _OLDEST:
        return False
    said = re.search(r"version (\d{1,4})\.(\d{1,4})", process.run([program, "--version"]).stdout)
    return said is not None and (int(said[1]), int(said[2])) < _OLDEST[name]


def fetch_program(name: str, reporter: Reporter) -> str:
    """cmake or ninja, installed with pip into the cache: a machine with a llama.cpp of its own needs neither.

    Raises:
        ToolchainError: pip could not bring it.
    """
    home = cache_dir() / "programs" / f"{name}-{sysconfig.get_platform()}"
    home.parent.mkdir(parents=True, exist_ok=True)
    with waiting_lock(home.with_name(f"{home.name}.lock"), name, reporter):
        return _fetched(name, home) or _install(name, home, reporter)


def _fetched(name: str, home: Path) -> str | None:
    """The program itself; cmake's package has a Python script in `bin` that only starts it."""
    places = (home / name / "data" / "bin" / name, home / "bin" / name)
    return next((str(place) for place in places if place.is_file()), None)


def _install(name: str, home: Path, reporter: Reporter) -> str:
    partial = home.with_name(home.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    argv = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"]
    log = cache_dir() / "logs" / f"install-{name}.log"
    with reporter.step(f"Fetching {name} with pip"):
        output = process.run([*argv, "--target", str(partial), _PACKAGES[name]], log=log, surroundings=_TARGETED)
        if output.returncode == 0 and _fetched(name, partial) is not None:
            shutil.rmtree(home, ignore_errors=True)
            partial.rename(home)
    if (program := _fetched(name, home)) is None:
        message = f"Building llama.cpp needs {name}, which is not there, and pip could not fetch it."
        raise ToolchainError(message, hint=f"Install it: {extras.install_command('toolchain')}", log=log)
    return program
