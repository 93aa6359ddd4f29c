"""llama.cpp for workers: built once for each kind of machine, and shipped through the store to the others of its kind.

With the tools goes the source: the converter is in it, and what is compiled on first use. A worker needs neither a network
nor a compiler then.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import hashlib
import json
import os
import platform
import re
import shutil
import tarfile
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path, PurePosixPath

from filelock import FileLock

from ggufkit.core.errors import GgufkitError
from ggufkit.core.manifest import PARTIAL
from ggufkit.core.paths import cache_dir
from ggufkit.core.progress import Reporter
from ggufkit.core.records import Toolchain
from ggufkit.llama import build, cuda, source, toolchain
from ggufkit.llama.selfcheck import self_check
from ggufkit.sweep.records import StoredFile
from ggufkit.sweep.stores import HOME, Store

PLACE = f"{HOME}/toolchains"
"""Where they are in a store: a cell of its own."""
_DECIDING = re.compile(r"(avx|sse|fma|f16c|bmi|amx|sve|asimd|i8mm|neon|dotprod)\w*")
"""Features of a processor that a build uses if the machine that builds it has them."""
_at_once = threading.Lock()

Alone = Callable[[str], AbstractContextManager[object]]
"""Holds a name among all workers: only one of a kind of machine builds."""


def provide(backend: str, store: Store, reporter: Reporter, alone: Alone) -> Toolchain:
    """The toolchain of this machine: what is here, or what the store has for its kind, or built now and shipped.

    Raises:
        ToolchainError: none can be had.
    """
    with _at_once:  # several jobs of one worker
        if os.environ.get("GGUFKIT_LLAMA_CPP"):
            return toolchain.find(backend, reporter)  # the user's own, on each machine
        here = toolchain.locate(backend)
        kind = kind_of_machine(backend)
        if here is not None and (not _is_ours(here) or store.read(_note(kind)) is not None):
            return here
        with alone(f"ggufkit-toolchain-{kind}"):
            if here is None and _received(backend, kind, store, reporter):
                here = toolchain.locate(backend)
            if here is None:
                here = toolchain.find(backend, reporter)
            if _is_ours(here) and store.read(_note(kind)) is None:
                ship(here, kind, store)
            return here


def offer(backend: str, store: Store) -> None:
    """Let machines of this one's kind have the toolchain that is here, if there is one that ggufkit built."""
    here = None if os.environ.get("GGUFKIT_LLAMA_CPP") else toolchain.locate(backend)
    kind = kind_of_machine(backend)
    if here is not None and _is_ours(here) and store.read(_note(kind)) is None:
        ship(here, kind, store)


def kind_of_machine(backend: str) -> str:
    """A short name for all machines that one build runs on, at its full speed."""
    gpus = sorted({gpu.arch for gpu in cuda.gpus()}) if backend in ("auto", "cuda") else []
    libc = [*platform.libc_ver(), platform.mac_ver()[0]]
    deciding = [
        platform.system(),
        platform.machine(),
        *libc,
        *_features(),
        "gpus",
        *gpus,
        backend,
        source.PINNED_COMMIT,
    ]
    return f"{platform.machine()}-{backend}-{hashlib.sha256(json.dumps(deciding).encode()).hexdigest()[:12]}"


def _features() -> list[str]:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines() if info.is_file() else []
    told = next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
    return sorted({word for word in told.partition(":")[2].split() if _DECIDING.fullmatch(word)})


def _is_ours(tools: Toolchain) -> bool:
    """Whether ggufkit built these tools, from its pinned commit."""
    home = cache_dir() / "toolchains"
    return tools.dir.parent.parent == home and tools.source is not None and tools.commit == source.PINNED_COMMIT


def _note(kind: str) -> str:
    return f"{PLACE}/{kind}.json"


def ship(tools: Toolchain, kind: str, store: Store) -> None:
    """Send a toolchain and its source; the note that tells of it comes last."""
    archive = store.place(PLACE) / f"{kind}.tar.gz"
    archive.parent.mkdir(parents=True, exist_ok=True)
    partial = archive.with_name(f"{archive.name}{PARTIAL}")
    with gzip.open(partial, "wb", compresslevel=3) as zipped, tarfile.open(fileobj=zipped, mode="w") as tar:
        for file, name in _contents(tools):
            tar.add(file, name, recursive=False)
    partial.replace(archive)
    (stored,) = store.push(PLACE, [archive])
    store.write(_note(kind), json.dumps(dataclasses.asdict(stored)).encode())


def _contents(tools: Toolchain) -> Iterator[tuple[Path, str]]:
    """The files, and their names below a cache; the stamp comes last, as in a build."""
    home = tools.dir.parent
    for file in sorted(tools.dir.iterdir()):
        yield file, f"toolchains/{home.name}/bin/{file.name}"
    if tools.source is not None:
        for file, name in source.needed_files(tools.source):
            yield file, f"llama.cpp/{source.PINNED_COMMIT[:12]}/{name}"
    yield home / build.STAMP, f"toolchains/{home.name}/{build.STAMP}"


def _received(backend: str, kind: str, store: Store, reporter: Reporter) -> bool:
    """Whether the store has a toolchain for this kind of machine that computes here, which is in the cache then."""
    note = store.read(_note(kind))
    if note is None:
        return False
    file = StoredFile(**json.loads(note))
    with reporter.step("Fetching llama.cpp from the sweep's store"):
        store.pull(PLACE, [file])
        with _unpacked(store.place(PLACE) / file.name) as home:
            _install(home / "llama.cpp", cache_dir() / "llama.cpp", source.is_source)
            made = _install(
                home / "toolchains", cache_dir() / "toolchains", lambda d: build.read_stamp(d) is not None
            )
    tools = toolchain.locate(backend)
    try:
        if tools is None:
            return False
        self_check(tools)
    except GgufkitError as error:
        reporter.warn(
            f"The llama.cpp from the sweep's store does not compute here, and is built anew: {error.message}"
        )
        shutil.rmtree(made, ignore_errors=True)
        return False
    return True


@contextlib.contextmanager
def _unpacked(archive: Path) -> Iterator[Path]:
    """What an archive holds, in a directory for the length of a context."""
    home = cache_dir() / "toolchains" / f"{archive.name}{PARTIAL}"
    shutil.rmtree(home, ignore_errors=True)
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                _unpack(tar, member, home)
        yield home
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _unpack(tar: tarfile.TarFile, member: tarfile.TarInfo, home: Path) -> None:
    """Write one file, or a link to its neighbour. Python before 3.10.12 and 3.11.4 has no filter that keeps an archive
    inside a directory."""
    path = home.joinpath(*PurePosixPath(member.name).parts)
    if ".." in PurePosixPath(member.name).parts or path == home or not path.is_relative_to(home):
        raise tarfile.TarError(f"{member.name} lies outside the archive")
    path.parent.mkdir(parents=True, exist_ok=True)
    if member.issym() and "/" not in member.linkname:
        path.symlink_to(member.linkname)
    elif (content := tar.extractfile(member)) is not None:
        with path.open("wb") as file:
            shutil.copyfileobj(content, file)
        path.chmod(member.mode & 0o755 | 0o600)


def _install(unpacked: Path, home: Path, is_whole: Callable[[Path], bool]) -> Path:
    """Put the one directory that was unpacked where it belongs, unless it is there."""
    (came,) = unpacked.iterdir()
    target = home / came.name
    home.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_suffix(".lock")):
        if not is_whole(target):
            shutil.rmtree(target, ignore_errors=True)
            came.rename(target)
    return target
