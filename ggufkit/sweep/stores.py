"""Where a sweep's files are, and how they come to whoever needs them.

A store holds the sweep's directory: the results directories of its cells, and what the sweep notes of itself. A worker that
sees that directory works in it. One that does not works in a directory of its own, brings what a job needs, and sends
what came of it: `RemoteStore`, whatever carries the bytes.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Protocol

from filelock import FileLock

from ggufkit.core import hashing, oserrors
from ggufkit.core.errors import GgufkitError, InputError
from ggufkit.core.manifest import PARTIAL
from ggufkit.core.paths import cache_dir
from ggufkit.core.units import size
from ggufkit.sweep.records import StoredFile

HOME = ".ggufkit/sweep"
"""What a sweep notes of itself, below its directory."""
MARK = f"{HOME}/store"
"""Holds the name of this store alone: who reads it there sees the same directory."""
BLOCK = 8 << 20
"""Bytes that travel at once."""


class StoreError(GgufkitError):
    """A store cannot be reached, or what came from it is damaged: another try may help."""


class Store(Protocol):
    """The files of a sweep, as one process sees them. Names have "/" on every machine."""

    @property
    def shared(self) -> bool:
        """Whether files are where they belong as soon as they are written."""
        ...

    def place(self, cell: str) -> Path:
        """The directory in which jobs of a cell work on this machine."""
        ...

    def pull(self, cell: str, files: Sequence[StoredFile]) -> None:
        """Bring what is not in the cell's place yet, whole and checked.

        Raises:
            InputError: the store lacks one of them.
            StoreError: it cannot be reached, or a file came with another hash twice.
            ResourceError: the disk is full.
        """
        ...

    def push(self, cell: str, paths: Sequence[Path]) -> tuple[StoredFile, ...]:
        """Send files that lie in the cell's place; of a directory all that is in it."""
        ...

    def read(self, name: str) -> bytes | None:
        """A small file, its name below the sweep's directory; None if it is not there."""
        ...

    def write(self, name: str, data: bytes) -> None:
        """Write a small file, the whole of it or nothing."""
        ...

    def names(self, prefix: str) -> list[str]:
        """The names of all files that begin so, in order."""
        ...


@dataclass(frozen=True)
class StoreSpec:
    """How a store is found, whoever is told: it travels to workers.

    Args:
        name: what the store alone is called, see `MARK`.
        out: the sweep's directory, as the driver sees it.
        url: where files are for all instead, as fsspec spells it; "" for none.
        keeper: address of the worker that sees the driver's directory; "" for none.
        run: what this command's sweep is called; another one may find the same store.
    """

    name: str
    out: str
    url: str = ""
    keeper: str = ""
    run: str = field(default_factory=lambda: uuid.uuid4().hex[:8])

    def is_seen_here(self) -> bool:
        """Whether this machine sees the sweep's directory: a directory of the same path may be another one."""
        with contextlib.suppress(OSError):
            return (Path(self.out) / MARK).read_text(encoding="utf-8").strip() == self.name
        return False

    def local(self) -> Path:
        """Where files are kept on a machine that does not see it; they outlive the worker, and serve the next."""
        return cache_dir() / "sweeps" / self.name


def found(out: Path, url: str = "", keeper: str = "") -> StoreSpec:
    """The description of the store in a directory, which is marked as one now if it is none yet."""
    mark = out / MARK
    mark.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(mark.with_suffix(".lock")):
        if not mark.is_file():
            _write(mark, uuid.uuid4().hex[:12].encode())
    return StoreSpec(mark.read_text(encoding="utf-8").strip(), str(out.absolute()), url, keeper)


@dataclass(frozen=True)
class PathStore:
    """A directory that all who work in it see."""

    root: Path
    shared: bool = True

    def place(self, cell: str) -> Path:
        """The results directory itself."""
        return _inside(self.root, cell)

    def pull(self, cell: str, files: Sequence[StoredFile]) -> None:
        """Nothing has to be brought; what is lacking is told."""
        for file in files:
            if not _inside(self.place(cell), file.name).is_file():
                raise lacking(cell, file)

    def push(self, cell: str, paths: Sequence[Path]) -> tuple[StoredFile, ...]:
        """Nothing has to be sent."""
        return described(self.place(cell), paths)

    def read(self, name: str) -> bytes | None:
        """See `Store`."""
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            return _inside(self.root, name).read_bytes()
        return None

    def write(self, name: str, data: bytes) -> None:
        """See `Store`."""
        _write(_inside(self.root, name), data)

    def names(self, prefix: str) -> list[str]:
        """See `Store`."""
        begun = _inside(self.root, prefix)
        home = begun if prefix.endswith("/") else begun.parent
        every = (file.relative_to(self.root).as_posix() for file in home.rglob("*") if file.is_file())
        return sorted(name for name in every if name.startswith(prefix) and not name.endswith(PARTIAL))


class Carrier(Protocol):
    """How bytes come from a store that this machine does not see, and go there. Raises StoreError where they do not."""

    def fetch(self, name: str, to: BinaryIO) -> bool:
        """Write what follows the bytes that `to` has already; False if there is no such file."""
        ...

    def send(self, path: Path, name: str, sha256: str) -> None:
        """Have a file there, the whole of it or nothing."""
        ...

    def read(self, name: str) -> bytes | None:
        """As `Store.read`."""
        ...

    def write(self, name: str, data: bytes) -> None:
        """As `Store.write`."""
        ...

    def names(self, prefix: str) -> list[str]:
        """As `Store.names`."""
        ...


@dataclass(frozen=True)
class RemoteStore:
    """A store elsewhere, with a directory here in which its files are worked on."""

    local: Path
    carrier: Carrier
    shared: bool = False

    def place(self, cell: str) -> Path:
        """A directory on this machine."""
        return _inside(self.local, cell)

    def pull(self, cell: str, files: Sequence[StoredFile]) -> None:
        """See `Store`. What several workers of a machine need comes once; what was cut goes on."""
        for file in files:
            target = _inside(self.place(cell), file.name)
            if not is_as_told(target, file):
                with _own_errors(target):
                    self._bring(f"{cell}/{file.name}", file, target)

    def push(self, cell: str, paths: Sequence[Path]) -> tuple[StoredFile, ...]:
        """See `Store`."""
        files = described(self.place(cell), paths)
        for file in files:
            self.carrier.send(_inside(self.place(cell), file.name), f"{cell}/{file.name}", file.sha256)
        return files

    def read(self, name: str) -> bytes | None:
        """See `Store`."""
        return self.carrier.read(name)

    def write(self, name: str, data: bytes) -> None:
        """See `Store`."""
        self.carrier.write(name, data)

    def names(self, prefix: str) -> list[str]:
        """See `Store`."""
        return self.carrier.names(prefix)

    def _bring(self, name: str, file: StoredFile, target: Path) -> None:
        with _arriving(self.local, file) as partial:
            if is_as_told(target, file):
                return  # another worker of this machine was faster
            self._require_room(file)
            for _ in range(2):  # what was left of an earlier try may be of another file
                with partial.open("ab") as to:
                    if not self.carrier.fetch(name, to):
                        raise lacking(name.removesuffix("/" + file.name), file)
                if is_as_told(partial, file):
                    target.parent.mkdir(parents=True, exist_ok=True)
                    partial.replace(target)
                    hashing.remember(target, file.sha256)
                    return
                partial.unlink()
        raise StoreError(
            f"{name} came from the store as another file than was sent.",
            hint="Repeat the command; or look at the store.",
        )

    def _require_room(self, file: StoredFile) -> None:
        free = shutil.disk_usage(self.local).free
        if file.size_bytes > free:
            error = OSError(28, f"{size(file.size_bytes)} are needed, {size(free)} are free", str(self.local))
            raise oserrors.explain(error) or error


def described(place: Path, paths: Sequence[Path]) -> tuple[StoredFile, ...]:
    """What is told of files in a cell's place; of a directory of all that is in it, of a file that is not there nothing."""
    found = [f for path in paths for f in (sorted(path.rglob("*")) if path.is_dir() else [path]) if f.is_file()]
    return tuple(
        StoredFile(f.relative_to(place).as_posix(), f.stat().st_size, hashing.sha256_file(f))
        for f in dict.fromkeys(found)
    )


def is_as_told(path: Path, file: StoredFile) -> bool:
    """Whether a file on this machine is the one that was stored."""
    with contextlib.suppress(OSError):
        return path.stat().st_size == file.size_bytes and hashing.sha256_file(path) == file.sha256
    return False


def lacking(cell: str, file: StoredFile) -> InputError:
    """The error for a file that was made and is not in the store."""
    hint = "Repeat the sweep: what is not there is made again."
    return InputError(f"{cell}/{file.name} is not in the store any more.", hint=hint)


@contextlib.contextmanager
def _arriving(local: Path, file: StoredFile) -> Iterator[Path]:
    """Where a file is until all of it has come, by what it will be: held by one process at a time."""
    home = local / ".ggufkit" / "arriving"
    home.mkdir(parents=True, exist_ok=True)
    with FileLock(home / f"{file.sha256}.lock"):
        yield home / file.sha256


@contextlib.contextmanager
def _own_errors(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise oserrors.explain(error, f"{target} cannot be written") or error from error


def _inside(root: Path, name: str) -> Path:
    """A path below a directory, by a name that others gave.

    Raises:
        InputError: it leads elsewhere.
    """
    parts = PurePosixPath(name).parts
    if ".." in parts or name.startswith("/") or "\\" in name or "\0" in name:
        raise InputError(
            f"{name!r} is no name of a file in a store.", hint="Use other names for models and profiles."
        )
    return root.joinpath(*parts)


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}{PARTIAL}")
    try:
        partial.write_bytes(data)
        os.replace(partial, path)  # noqa: PTH105 - atomic on every platform
    except OSError:
        partial.unlink(missing_ok=True)
        raise
