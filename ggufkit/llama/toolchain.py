"""Find or build llama.cpp: one origin for all binaries and the converter."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

from ggufkit.core.errors import ToolchainError
from ggufkit.core.hashing import sha256_file
from ggufkit.core.paths import cache_dir, user_path
from ggufkit.core.progress import Reporter, SilentReporter
from ggufkit.core.records import Toolchain
from ggufkit.llama import argv, build, cuda, logs
from ggufkit.llama import source as sources
from ggufkit.llama.backends import BY_NAME, Backend, candidates
from ggufkit.llama.build import BuildFor
from ggufkit.llama.cached_output import cached_output
from ggufkit.llama.source import CONVERTER, Source


def find(backend: str = "auto", reporter: Reporter | None = None) -> Toolchain:
    """The toolchain for a backend: `GGUFKIT_LLAMA_CPP`, then the pinned build (made now if need be), then PATH.

    Raises:
        ToolchainError: none can be had; the message says what to install.
    """
    teller, explicit = reporter or SilentReporter(), os.environ.get("GGUFKIT_LLAMA_CPP")
    if explicit:
        return _for_backend(_explicit(user_path(explicit), backend, teller), backend)
    chosen = _choose(backend, teller)
    known = installed(chosen)
    if known is not None:
        if is_outdated(known):
            teller.info(outdated_words(known))
        return known
    try:
        return install(chosen, teller)
    except ToolchainError as error:
        found = _on_path()
        if found is None:
            raise
        teller.warn(f"{error.message} Using llama.cpp {found.commit[:9]} from {found.dir} instead.")
        return found


def locate(backend: str = "auto") -> Toolchain | None:
    """The toolchain that `find` would return without building or fetching anything; None if it would."""
    explicit = os.environ.get("GGUFKIT_LLAMA_CPP")
    if explicit:
        found = _explicit_here(user_path(explicit), backend)
        return _for_backend(found, backend) if found is not None else None
    return installed(_choose(backend, SilentReporter())) or _on_path()


def is_outdated(tools: Toolchain) -> bool:
    """Whether an earlier ggufkit built these tools, and `install` would build others."""
    ours = tools.dir.parent.parent == cache_dir() / "toolchains"
    return ours and build.is_outdated(tools.dir.parent, BY_NAME[tools.backend])


def outdated_words(tools: Toolchain) -> str:
    """What to say of tools that are outdated, with the way out."""
    return f"An earlier ggufkit built this llama.cpp. Build it anew: ggufkit toolchain install --backend {tools.backend}"


def _for_backend(tools: Toolchain, backend: str) -> Toolchain:
    """A user's own build, used for what was asked; any build can compute on the CPU."""
    if backend in ("auto", tools.backend):
        return tools
    if backend == "cpu":
        return replace(tools, backend="cpu")
    hint = f"Unset GGUFKIT_LLAMA_CPP, or point it at a build for {backend}."
    raise ToolchainError(f"The llama.cpp in {tools.dir} is built for {tools.backend}, not {backend}.", hint=hint)


def _choose(name: str, reporter: Reporter) -> Backend:
    """The backend of a name; `auto` takes the fastest device here that there is a build for, or that can be built for.

    Raises:
        ToolchainError: a GPU backend was asked for by name, and this machine has no such device.
    """
    if name != "auto":
        wanted = BY_NAME[name]
        if not wanted.present():
            raise ToolchainError(f"This machine has no usable device for --backend {name}.", hint=wanted.install)
        return wanted
    for candidate in candidates():
        try:
            if installed(candidate) is None:
                _build_for(candidate, None)
            return candidate
        except ToolchainError as error:
            reporter.warn(f"{error.message} The CPU is used instead. {error.hint or ''}".strip())
    return BY_NAME["cpu"]


def installed(backend: Backend) -> Toolchain | None:
    """The newest finished build of the pinned commit for a backend, or None if it was not made yet."""
    source = _pinned_here()
    builds = build.finished(source, backend) if source is not None else []
    return _from_stamp(builds[0], source) if builds and source is not None else None


def _pinned_here() -> Source | None:
    """The pinned commit's source, if it is here already."""
    vendored = sources.submodule()
    if vendored is not None and vendored.commit == sources.PINNED_COMMIT:
        return vendored
    cached = cache_dir() / "llama.cpp" / sources.PINNED_COMMIT[:12]
    return Source(cached, sources.PINNED_COMMIT) if sources.is_source(cached) else None


def install(backend: Backend, reporter: Reporter, cuda_arch: str | None = None) -> Toolchain:
    """Build the pinned commit (or the source that `GGUFKIT_LLAMA_CPP` names), fetching it first if need be.

    Args:
        cuda_arch: compute capabilities to build for, e.g. "90,89", instead of those of the GPUs here.
    """
    wanted = _build_for(backend, cuda_arch)
    source = _explicit_source() or sources.pinned_source(reporter)
    made = _from_stamp(build.build(source, wanted, reporter), source)
    if made is None:
        raise ToolchainError("The build is not complete.", hint="Repeat the command.")
    return made


def _explicit_source() -> Source | None:
    explicit = os.environ.get("GGUFKIT_LLAMA_CPP")
    if not explicit:
        return None
    path = user_path(explicit)
    if path.is_file():
        return sources.unpack_archive(path)
    return sources.describe_source(path) if sources.is_source(path) else None


def _build_for(backend: Backend, cuda_arch: str | None) -> BuildFor:
    """What a build for a backend needs to know of this machine.

    Raises:
        ToolchainError: the compiler is missing or does not fit the driver.
    """
    if backend.name != "cuda":
        return BuildFor(backend, check=backend.name != "cpu")
    state = cuda.examine()
    nvcc = cuda.require_buildable(state)
    flags = (f"-DCMAKE_CUDA_ARCHITECTURES={cuda.architectures(state, cuda_arch)}",)
    return BuildFor(backend, flags, (("CUDACXX", str(nvcc)),), check=bool(state.gpus))


def _from_stamp(directory: Path, source: Source) -> Toolchain | None:
    stamp = build.read_stamp(directory)
    if stamp is None:
        return None
    origin = "vendored" if source == sources.submodule() else "built"
    return Toolchain(directory / "bin", origin, stamp.commit, stamp.backend, stamp.version, source.path)


def _explicit(path: Path, backend: str, reporter: Reporter) -> Toolchain:
    """The toolchain that the user named: a build directory, a source directory or an archive."""
    binaries = _binaries_in(path)
    if binaries is not None:
        return _probe(binaries, "explicit", _source_near(binaries, path))
    source = _explicit_source()
    if source is not None:
        chosen = _choose(backend, reporter)
        builds = build.finished(source, chosen)
        made = _from_stamp(builds[0], source) if builds else install(chosen, reporter)
        if made is not None:
            return replace(made, origin="explicit")
    raise _holds_nothing(path)


def _holds_nothing(path: Path) -> ToolchainError:
    message = f"GGUFKIT_LLAMA_CPP={path} holds neither llama.cpp's tools nor its source."
    hint = "Point it at a build directory (with llama-quantize in it), a source tree or a source archive."
    return ToolchainError(message, hint=hint)


def _explicit_here(path: Path, backend: str) -> Toolchain | None:
    """What the user named if it is a build, or a source that was built before."""
    quiet = SilentReporter()
    if _binaries_in(path) is not None:
        return _explicit(path, backend, quiet)
    source = sources.known(path)
    if source is None and not path.is_file():
        raise _holds_nothing(path)
    builds = build.finished(source, _choose(backend, quiet)) if source is not None else []
    return _explicit(path, backend, quiet) if builds else None


def _binaries_in(path: Path) -> Path | None:
    for candidate in (path, path / "bin", path / "build" / "bin"):
        if (candidate / "llama-quantize").is_file():
            return candidate
    return None


def _source_near(binaries: Path, root: Path) -> Path | None:
    """The source tree that a build directory belongs to: the named one, one above, or the one cmake noted."""
    noted = root / "CMakeCache.txt"
    homes = []
    if noted.is_file():
        prefix = "CMAKE_HOME_DIRECTORY:INTERNAL="
        homes = [Path(x.removeprefix(prefix)) for x in noted.read_text().splitlines() if x.startswith(prefix)]
    candidates = [root, *homes, *binaries.parents[:3]]
    return next((c for c in candidates if (c / CONVERTER).is_file()), None)


def _on_path() -> Toolchain | None:
    where = shutil.which("llama-quantize")
    if where is None:
        return None
    binaries = Path(where).resolve().parent
    return _probe(binaries, "path", _source_near(binaries, binaries))


def _probe(binaries: Path, origin: str, source: Path | None) -> Toolchain:
    """Ask the binaries who they are."""
    missing = [tool for tool in build.TOOLS if not (binaries / tool).is_file()]
    if missing:
        hint = "Build all of llama-quantize, llama-perplexity, llama-imatrix and llama-bench."
        raise ToolchainError(f"{binaries} lacks {', '.join(missing)}.", hint=hint)
    stamp = build.read_stamp(binaries.parent)
    if stamp is not None:
        return Toolchain(binaries, origin, stamp.commit, stamp.backend, stamp.version, source)
    said = logs.parse_version(cached_output(argv.version(binaries)))
    commit = said.commit if said.commit != "unknown" else "sha256:" + sha256_file(binaries / "llama-quantize")[:12]
    return Toolchain(binaries, origin, commit, _backend_of(binaries), said.version, source)


def _backend_of(binaries: Path) -> str:
    """The best backend whose library lies beside the tools."""
    for name in ("cuda", "hip", "metal", "vulkan"):
        if any(binaries.glob(f"*ggml-{name}*")):
            return name
    return "cpu"


def converter_source(tools: Toolchain, reporter: Reporter, *, force: bool = False) -> Path:
    """The directory that holds the converter of the same commit as the binaries.

    Args:
        force: accept the pinned converter for binaries of another commit.

    Raises:
        ToolchainError: there is none, or it belongs to another commit.
    """
    if tools.source is not None and (tools.source / CONVERTER).is_file():
        return _same_commit(tools, sources.describe_source(tools.source), force)
    return _same_commit(tools, sources.pinned_source(reporter), force)


def _same_commit(tools: Toolchain, source: Source, force: bool) -> Path:
    known = source.commit != "unknown" and not tools.commit.startswith("sha256:")
    same = source.commit.startswith(tools.commit) or tools.commit.startswith(source.commit)
    if force or (same if known else source.path == tools.source):
        return source.path
    raise ToolchainError(
        f"The tools in {tools.dir} are of commit {tools.commit[:12]}, the converter of {source.commit[:12]}: "
        "files made by one may not be understood by the other.",
        hint="Set GGUFKIT_LLAMA_CPP to a build with its source, or accept the mix with --force-toolchain.",
    )
