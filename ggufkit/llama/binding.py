"""llama-cpp-python's Python part: it speaks to the toolchain's own libraries, so nothing is compiled twice."""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path

from ggufkit.core import process
from ggufkit.core.errors import ToolchainError
from ggufkit.core.locks import waiting_lock
from ggufkit.core.paths import cache_dir
from ggufkit.core.process import Surroundings
from ggufkit.core.progress import Reporter
from ggufkit.core.records import Toolchain

PACKAGE = "llama-cpp-python"
VERSION = "0.3.36"
_LIBRARIES = ("libllama.so", "libllama.dylib", "llama.dll")


def library_dir(tools: Toolchain) -> Path:
    """The directory of the toolchain's shared libraries.

    Raises:
        ToolchainError: it has none.
    """
    homes = (tools.dir, tools.dir.parent / "lib", tools.dir.parent)
    found = next((home for home in homes if any((home / name).is_file() for name in _LIBRARIES)), None)
    if found is None:
        raise ToolchainError(
            f"{tools.dir} holds no shared libllama, which generating needs.",
            hint="Build llama.cpp with -DBUILD_SHARED_LIBS=ON, or unset GGUFKIT_LLAMA_CPP to use the pinned build.",
        )
    return found


def not_loaded(stderr: str) -> bool:
    """Whether the binding says that the model cannot be loaded."""
    return "Failed to load model" in stderr


def ensure_installed(reporter: Reporter) -> Path | None:
    """Where the binding is: None if this Python has it, else a directory in the cache, filled on first use.

    Raises:
        ToolchainError: it could not be installed; the message holds the command.
    """
    if _version_here() == VERSION:
        return None
    home = cache_dir() / "python" / f"{PACKAGE}-{VERSION}-py{sys.version_info[0]}{sys.version_info[1]}"
    if (home / "llama_cpp").is_dir():
        return home
    home.parent.mkdir(parents=True, exist_ok=True)
    with waiting_lock(home.with_name(home.name + ".lock"), PACKAGE, reporter):
        if not (home / "llama_cpp").is_dir():
            _install(home, reporter)
    return home


def _version_here() -> str | None:
    try:
        return importlib.metadata.version("llama_cpp_python")
    except importlib.metadata.PackageNotFoundError:
        return None


def _install(home: Path, reporter: Reporter) -> None:
    partial = home.with_name(home.name + ".partial")
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-binary", PACKAGE]
    packages = [f"{PACKAGE}=={VERSION}", "diskcache", "typing-extensions"]
    log = cache_dir() / "logs" / "install-llama-cpp-python.log"
    with reporter.step(f"Installing {PACKAGE} {VERSION}, Python part only"):
        options = ["--quiet", "--disable-pip-version-check", "--upgrade", "--target", str(partial)]
        no_build = Surroundings({"CMAKE_ARGS": "-DLLAMA_BUILD=OFF"})
        output = process.run([*pip, *options, *packages], surroundings=no_build, log=log)
        if output.returncode != 0 or not (partial / "llama_cpp").is_dir():
            command = f"CMAKE_ARGS=-DLLAMA_BUILD=OFF {' '.join(pip)} {' '.join(packages)}"
            message = f"{PACKAGE}, through which ggufkit generates text, could not be installed."
            raise ToolchainError(message, hint=f"Install it: {command}", log=log)
    partial.rename(home)
