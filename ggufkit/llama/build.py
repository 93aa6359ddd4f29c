"""Build llama.cpp's tools with cmake and ninja, once per commit, backend and flags."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from ggufkit.core import failures, process
from ggufkit.core.errors import InputError, ToolchainError
from ggufkit.core.jsonfile import read_json
from ggufkit.core.locks import is_held, waiting_lock
from ggufkit.core.paths import cache_dir
from ggufkit.core.process import Surroundings
from ggufkit.core.progress import Reporter
from ggufkit.core.records import Toolchain
from ggufkit.llama import cuda, logs
from ggufkit.llama.backends import Backend
from ggufkit.llama.programs import fetch_program, find_program, find_recent
from ggufkit.llama.progress_lines import steps_done
from ggufkit.llama.selfcheck import self_check
from ggufkit.llama.source import Source

TOOLS = ("llama-quantize", "llama-perplexity", "llama-imatrix", "llama-bench")
STAMP = "ggufkit-toolchain.json"
_FLAGS = (
    "-DCMAKE_BUILD_TYPE=Release", "-DBUILD_SHARED_LIBS=ON", "-DCMAKE_BUILD_RPATH_USE_ORIGIN=ON",
    "-DLLAMA_CURL=OFF", "-DLLAMA_OPENSSL=OFF", "-DLLAMA_BUILD_TESTS=OFF", "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_SERVER=OFF", "-DLLAMA_BUILD_APP=OFF",
)  # fmt: skip
_ADDITIONS = Path(__file__).parent / "cmake" / "tools.cmake"
"""What is compiled in addition, and in place of some loops where a GPU waits for them; the source tree stays as it is."""

LINGER = _ADDITIONS.with_name("linger.cpp")
"""What keeps a tool from ending before all is printed."""
RING = b"ggufkit ring 2"
"""What memory begins with that logits go through: `cmake/shared_ring.h`."""

_FAST = "-DGGUFKIT_FAST_LOGITS=ON"
_TOOL, _PART = "llama-perplexity", "libllama-perplexity-impl.so"
_ALWAYS = ("linger.cpp", "tools.cmake")


@dataclass(frozen=True)
class Stamp:
    """Written last into a finished build: what it is."""

    commit: str
    backend: str
    flags: list[str]
    version: str
    source: str
    seconds: float
    additions: str = ""


def additions(backend: Backend) -> str:
    """A hash of what ggufkit compiles into a backend's tools."""
    used = [f for f in sorted(_ADDITIONS.parent.iterdir()) if f.name in _ALWAYS or _FAST in backend.flags]
    return _short_hash([f.read_text(encoding="utf-8") for f in used])


def _short_hash(texts: list[str]) -> str:
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()[:8]


def has_fast_logits(tools_dir: Path) -> bool:
    """Whether the llama-perplexity there is the copy that GPU builds have, which knows rings."""
    tool = _bytes(tools_dir / _TOOL)
    return RING in (_bytes(tools_dir / _PART) if _PART.encode() in tool else tool)


def _bytes(file: Path) -> bytes:
    return file.read_bytes() if file.is_file() else b""


def fast_flags() -> tuple[str, ...]:
    """What that copy is compiled with."""
    found = re.search(r"set\(GGUFKIT_FAST_FLAGS\s+([^)]+)\)", _ADDITIONS.read_text(encoding="utf-8"))
    return ("-O3", *(found[1].split() if found is not None else ()))


def fast_logits(cmake: str, source: Path, to: Path) -> list[str]:
    """The command that writes that copy of llama-perplexity's source."""
    return [cmake, f"-DSOURCE={source}", f"-DTO={to}", "-P", str(_ADDITIONS.with_name("fast_logits.cmake"))]


def build_dir(source: Source, backend: Backend, flags: tuple[str, ...] = ()) -> Path:
    """Where a build of this commit, backend and flags is kept."""
    key = _short_hash([*_FLAGS, *backend.flags, *flags, additions(backend)])
    commit = source.commit[:12]
    if source.commit == "unknown":
        commit = "tree-" + hashlib.sha256(str(source.path.resolve()).encode()).hexdigest()[:8]
    return cache_dir() / "toolchains" / f"{commit}-{backend.name}-{key}"


def read_stamp(directory: Path) -> Stamp | None:
    """What a finished build says of itself; None if it is not finished."""
    try:
        return read_json(directory / STAMP, Stamp)
    except InputError:
        return None


@dataclass(frozen=True)
class BuildFor:
    """What is built for: the backend, its further cmake flags, and variables of the environment that cmake heeds.

    `check` is false where the device is not on this machine.
    """

    backend: Backend
    flags: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    check: bool = False


def build(source: Source, wanted: BuildFor, reporter: Reporter) -> Path:
    """Build the tools unless that was done before; return the directory that holds `bin` and the stamp.

    Raises:
        ToolchainError: a compiler or cmake is missing, the build failed (the log tells), or what was built does not
            compute on its device.
    """
    target = build_dir(source, wanted.backend, wanted.flags)
    target.parent.mkdir(parents=True, exist_ok=True)
    with waiting_lock(target.with_suffix(".lock"), f"build {target.name}", reporter):
        if read_stamp(target) is None:
            _build(source, wanted, reporter, target)
    return target


@dataclass(frozen=True)
class UnderWay:
    """A build that another process is at: what it is called, and how many of its files are compiled, as far as is known."""

    name: str
    done: int | None = None
    total: int | None = None


def under_way() -> list[UnderWay]:
    """The builds that other processes are at."""
    locks = sorted((cache_dir() / "toolchains").glob("*.lock"))
    return [_state(lock.stem) for lock in locks if is_held(lock)]


def _state(name: str) -> UnderWay:
    try:
        steps = steps_done(_log(name).read_text(encoding="utf-8", errors="replace"))
    except OSError:
        steps = None
    return UnderWay(name, *steps) if steps is not None else UnderWay(name)


def _log(name: str) -> Path:
    return cache_dir() / "logs" / f"build-{name}.log"


def finished(source: Source, backend: Backend) -> list[Path]:
    """The finished builds of a commit for a backend that run on the GPUs here: those with what is compiled into them now
    before those of an earlier ggufkit, the newest first."""
    plain = build_dir(source, backend)
    prefix = plain.name.rpartition("-")[0]
    stamps = {d: read_stamp(d) for d in plain.parent.glob(f"{prefix}-*")}
    gpus = cuda.gpus() if backend.name == "cuda" else ()
    found = {d: s for d, s in stamps.items() if s is not None and cuda.runs_on(s.flags, gpus)}
    now = additions(backend)
    return sorted(found, key=lambda d: (found[d].additions != now, -(d / STAMP).stat().st_mtime))


def is_outdated(directory: Path, backend: Backend) -> bool:
    """Whether an earlier ggufkit made a finished build, and compiled something else into it."""
    stamp = read_stamp(directory)
    return stamp is not None and stamp.additions != additions(backend)


def _build(source: Source, wanted: BuildFor, reporter: Reporter, target: Path) -> None:
    _require_compilers(wanted.backend)
    cmake, ninja = (find_recent(p) or fetch_program(p, reporter) for p in ("cmake", "ninja"))
    work = target.with_name(target.name + ".partial")
    log = _log(target.name)
    with reporter.step(f"Building llama.cpp {source.commit[:9]} for {wanted.backend.name}") as progress:

        def watch(_stream: str, text: str) -> None:
            if (steps := steps_done(text)) is not None:
                progress.update(*steps, "files")

        all_flags = (*_FLAGS, *wanted.backend.flags, *wanted.flags)
        identity = [f"-DLLAMA_BUILD_COMMIT={source.commit[:9]}", "-DLLAMA_BUILD_NUMBER=0"]
        identity += [f"-DCMAKE_PROJECT_llama.cpp_INCLUDE={_ADDITIONS}"]
        argv: list[str | Path] = [
            cmake,
            "-S",
            source.path,
            "-B",
            work,
            "-G",
            "Ninja",
            f"-DCMAKE_MAKE_PROGRAM={ninja}",
        ]
        compiler = Surroundings(dict(wanted.env))
        configured = process.run(
            [*argv, *all_flags, *identity], log=log.with_name(f"{log.stem}-configure.log"), surroundings=compiler
        )
        require_built(configured, "configuring llama.cpp")
        built = process.run([ninja, "-C", work, *TOOLS], log=log, on_text=watch, surroundings=compiler)
        require_built(built, "building llama.cpp")
    if wanted.check:
        with reporter.step(f"Checking that {wanted.backend.name} computes, and as the CPU does"):
            self_check(Toolchain(work / "bin", "built", source.commit, wanted.backend.name, "", source.path))
    _finish(work, target, source, wanted.backend, list(all_flags), configured.duration_s + built.duration_s)


def require_built(output: process.ToolOutput, doing: str) -> None:
    """Raise ToolchainError with the compiler's first error where a part of a build failed."""
    if output.returncode != 0:
        lines = output.text.splitlines()
        errors = [x.strip() for x in lines if "error:" in x.lower() or "CMake Error" in x or "fatal error" in x]
        why = errors[0] if errors else None
        failed = failures.explain(output, doing, why)
        hint = cuda.explain_build_failure(output.text) or "The log has the compiler's words."
        raise ToolchainError(failed.message, hint=hint, log=output.log)


def _finish(work: Path, target: Path, source: Source, backend: Backend, flags: list[str], seconds: float) -> None:
    """Keep the binaries and libraries, drop the objects, and stamp the result."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    (work / "bin").rename(target / "bin")
    shutil.rmtree(work, ignore_errors=True)
    output = process.run([target / "bin" / "llama-bench", "--version"])
    version = logs.parse_version(output.text).version
    stamp = Stamp(
        source.commit, backend.name, flags, version, str(source.path), round(seconds, 1), additions(backend)
    )
    partial = target / (STAMP + ".partial")
    partial.write_text(json.dumps(asdict(stamp), indent=1) + "\n")
    partial.rename(target / STAMP)


def require_compiler() -> None:
    """Raise ToolchainError where there is no C++ compiler."""
    if not any(find_program(c) for c in ("c++", "g++", "clang++", "cl")):
        hint = "Debian/Ubuntu: apt install g++ · Fedora: dnf install gcc-c++ · macOS: xcode-select --install"
        raise ToolchainError("Building llama.cpp needs a C++ compiler, which is not there.", hint=hint)


def _require_compilers(backend: Backend) -> None:
    require_compiler()
    for compiler in backend.compilers:
        if compiler != "nvcc" and find_program(compiler) is None:
            raise ToolchainError(f"Building llama.cpp for {backend.name} needs {compiler}.", hint=backend.install)
