"""llama-embedding: the toolchain's own, or one file of llama.cpp's examples compiled against its libraries on first use.

A few seconds where all of llama.cpp takes minutes: so builds that lack it, the user's own or an earlier one, stay as they
are and need not be made again.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from ggufkit.core import process
from ggufkit.core.errors import ToolchainError
from ggufkit.core.hashing import key
from ggufkit.core.locks import waiting_lock
from ggufkit.core.paths import cache_dir
from ggufkit.core.progress import Reporter
from ggufkit.core.records import Toolchain
from ggufkit.llama import source as sources
from ggufkit.llama.binding import library_dir
from ggufkit.llama.programs import find_program

NAME = "llama-embedding"
_LIBRARIES = ("llama-common", "llama", "ggml", "ggml-base")
_HEADERS = ("common", "include", "ggml/include", "vendor")
_FLUSH = """// llama.cpp's log is printed by a thread that the end of main does not wait for.
#include "log.h"
namespace {
struct Flush {
    ~Flush() { common_log_flush(common_log_main()); }
};
const Flush flush;
}  // namespace
"""
_SUFFIXES = (".so", ".dylib")


def find(tools: Toolchain, reporter: Reporter) -> Path:
    """The program, compiled now if need be.

    Raises:
        ToolchainError: it is not there, and cannot be compiled for this toolchain.
    """
    own = tools.binary(NAME)
    if own.is_file():
        return own
    home = library_dir(tools)
    program = cache_dir() / "tools" / _identity(tools, home) / NAME
    program.parent.mkdir(parents=True, exist_ok=True)
    with waiting_lock(program.with_suffix(".lock"), NAME, reporter):
        if not program.is_file():
            _compile(tools, home, program, reporter)
    return program


def _identity(tools: Toolchain, home: Path) -> str:
    """Changes with the libraries: a program runs with those that it was compiled against."""
    states = [str(key(file)) for name in _LIBRARIES if (file := _library(home, name)) is not None]
    return hashlib.sha256("\n".join([tools.commit, str(home.resolve()), *states]).encode()).hexdigest()[:12]


def _library(home: Path, name: str) -> Path | None:
    return next((file for suffix in _SUFFIXES if (file := home / f"lib{name}{suffix}").is_file()), None)


def _compile(tools: Toolchain, home: Path, program: Path, reporter: Reporter) -> None:
    compiler = next((c for name in ("c++", "g++", "clang++") if (c := find_program(name)) is not None), None)
    lacking = [name for name in _LIBRARIES if _library(home, name) is None]
    code = sources.example("embedding", tools.source, tools.commit, reporter) if compiler and not lacking else None
    if compiler is None or code is None or tools.source is None:
        raise ToolchainError(
            f"{tools.dir} has no {NAME}, with which embeddings are compared, and it cannot be compiled for it.",
            hint=f"Build it there: cmake --build DIR --target {NAME}; or leave quality out with --no-eval.",
        )
    partial = program.with_suffix(".partial")
    argv: list[str | Path] = [
        compiler,
        "-O2",
        "-std=c++17",
        "-DNDEBUG",
        *(f"-I{tools.source / h}" for h in _HEADERS),
    ]
    flush = program.with_name("flush.cpp")
    flush.write_text(_FLUSH, encoding="utf-8")
    argv += [code / "embedding.cpp", flush, "-o", partial, f"-L{home}", *(f"-l{name}" for name in _LIBRARIES)]
    with reporter.step(f"Compiling {NAME}"):
        output = process.run([*argv, f"-Wl,-rpath,{home}"], log=cache_dir() / "logs" / f"compile-{NAME}.log")
    if output.returncode != 0:
        hint = f"Build {NAME} in your llama.cpp, or leave quality out with --no-eval."
        raise ToolchainError(f"{NAME} could not be compiled for {tools.dir}.", hint=hint, log=output.log)
    partial.rename(program)
