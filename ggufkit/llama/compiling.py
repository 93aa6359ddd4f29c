"""Programs of llama.cpp's that are compiled against a toolchain's libraries on first use.

Seconds where all of llama.cpp takes minutes: so builds that lack one, the user's own or an earlier one, stay as they are
and need not be made again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from ggufkit.core import process
from ggufkit.core.hashing import key
from ggufkit.core.paths import cache_dir
from ggufkit.core.process import ToolOutput
from ggufkit.core.records import Toolchain
from ggufkit.llama.programs import find_program

_LIBRARIES = ("llama-common", "llama", "ggml", "ggml-base")
_HEADERS = ("common", "include", "ggml/include", "vendor")
_COMPILERS = ("c++", "g++", "clang++")
_SUFFIXES = (".so", ".dylib")


def place(tools: Toolchain, home: Path) -> Path:
    """The directory of programs for the libraries in `home`; it changes with them, for a program runs with those that it
    was compiled against."""
    states = [str(key(file)) for name in _LIBRARIES if (file := _library(home, name)) is not None]
    identity = hashlib.sha256("\n".join([tools.commit, str(home.resolve()), *states]).encode())
    return cache_dir() / "tools" / identity.hexdigest()[:12]


def compiler(home: Path) -> str | None:
    """The C++ compiler; None without one, and where `home` lacks a library that programs are linked with."""
    if any(_library(home, name) is None for name in _LIBRARIES):
        return None
    return next((found for name in _COMPILERS if (found := find_program(name)) is not None), None)


def compile_program(
    program: Path, files: Sequence[Path], source: Path, home: Path, flags: Sequence[str] = ("-O2",)
) -> ToolOutput:
    """Compile files against the headers of a source tree and the libraries in `home`; the program is there if it ends well.

    A compiler must be there.
    """
    partial = program.with_suffix(".partial")
    argv: list[str | Path] = [str(compiler(home)), *flags, "-std=c++17", "-DNDEBUG"]
    argv += [f"-I{source / directory}" for directory in _HEADERS]
    argv += [*files, "-o", partial, f"-L{home}", *(f"-l{name}" for name in _LIBRARIES), f"-Wl,-rpath,{home}"]
    output = process.run(argv, log=cache_dir() / "logs" / f"compile-{program.name}.log")
    if output.returncode == 0:
        partial.rename(program)
    return output


def _library(home: Path, name: str) -> Path | None:
    return next((file for suffix in _SUFFIXES if (file := home / f"lib{name}{suffix}").is_file()), None)
