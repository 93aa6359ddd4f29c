"""What this machine has, what it lacks, and the command that fixes it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

from ggufkit.core import extras, machine
from ggufkit.core.errors import GgufkitError
from ggufkit.core.paths import cache_dir
from ggufkit.core.units import size
from ggufkit.llama import backends, cuda, toolchain
from ggufkit.llama.programs import find_program, find_recent
from ggufkit.texts import corpus

_MIN_DISK = 5 << 30


@dataclass(frozen=True)
class Finding:
    """One thing looked at. `needed` is false for what only some commands use."""

    what: str
    ok: bool
    state: str
    fix: str = ""
    needed: bool = True


def examine() -> list[Finding]:
    """Look at everything; quick, and nothing is changed."""
    return [check() for check in _CHECKS]


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    ok = (3, 10) <= sys.version_info[:2] <= (3, 13)
    return Finding("Python", ok, version, "Use Python 3.10 to 3.13.")


def _llama_cpp() -> Finding:
    try:
        found = toolchain.locate("auto")
    except GgufkitError as error:
        return Finding("llama.cpp", False, error.message, error.hint or "")
    if found is None:
        return Finding("llama.cpp", True, "not built yet; the first command that needs it builds it")
    return Finding("llama.cpp", True, f"{found.commit[:9]}, {found.backend}, {found.origin}, in {found.dir}")


def _compiler() -> Finding:
    found = next((p for c in ("c++", "g++", "clang++", "cl") if (p := find_program(c))), None)
    fix = "Debian/Ubuntu: apt install g++ · Fedora: dnf install gcc-c++ · macOS: xcode-select --install"
    return Finding("C++ compiler", found is not None, found or "none: llama.cpp cannot be built", fix)


def _cmake() -> Finding:
    missing = [p for p in ("cmake", "ninja") if find_recent(p) is None]
    state = f"{' and '.join(missing)} will be fetched with pip when llama.cpp is built" if missing else "there"
    return Finding("cmake, ninja", True, state, needed=False)


def _backend() -> Finding:
    names = [backend.name for backend in backends.candidates()]
    return Finding("Devices", True, ", ".join(names), needed=False)


def _cuda() -> Finding:
    state = cuda.examine()
    if not state.gpus:
        return Finding("CUDA", False, "no NVIDIA GPU", needed=False)
    shown = ", ".join(f"{gpu.name} ({size(gpu.memory_free)} free)" for gpu in state.gpus)
    try:
        nvcc = cuda.require_buildable(state)
    except GgufkitError as error:
        return Finding("CUDA", False, f"{shown}; {error.message}", error.hint or "", needed=False)
    return Finding("CUDA", True, f"{shown}; {nvcc}", needed=False)


def _extras() -> Finding:
    lacking = [extra.name for extra in extras.EXTRAS.values() if extra.missing()]
    there = [name for name in extras.EXTRAS if name not in lacking]
    state = ", ".join(there) or "none"
    if lacking:
        state += f"; not installed: {', '.join(lacking)}"
    fix = extras.install_command(*lacking) if lacking else ""
    return Finding("Extras", not lacking, state, fix, needed=False)


def _disk() -> Finding:
    free = machine.free_disk(cache_dir())
    fix = "Set GGUFKIT_CACHE to a larger disk."
    return Finding("Disk for the cache", free > _MIN_DISK, f"{size(free)} free at {cache_dir()}", fix)


def _memory() -> Finding:
    return Finding("Memory", True, f"{size(machine.free_memory())} free", needed=False)


def _texts() -> Finding:
    there = corpus.inventory()
    state = ", ".join(f"{name} {'there' if path else 'not fetched yet'}" for name, path in there.items())
    fix = "It is fetched when first needed; behind a slow network set HF_ENDPOINT=https://hf-mirror.com."
    return Finding("Texts", all(there.values()), state, fix, needed=False)


_CHECKS: tuple[Callable[[], Finding], ...] = (
    _python, _llama_cpp, _compiler, _cmake, _backend, _cuda, _extras, _texts, _disk, _memory,
)  # fmt: skip
