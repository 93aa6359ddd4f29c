"""SHA-256 of files, computed once and remembered as long as nobody changes them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from ggufkit.core.paths import cache_dir
from ggufkit.core.progress import Progress, Reporter, SilentReporter, end_if
from ggufkit.core.units import GIB

Key = tuple[str, int, int, int, int]
"""A file as it is now: see `key`."""

_BLOCK = 1 << 22
_LONG = 1 << 30
_SMALL = 1 << 20
"""Bytes below which reading a file takes no longer than remembering it."""
_TICK_NS = 20_000_000
"""A file system's clock may stand still for so long: within that time a change leaves no trace."""

_known: dict[bytes, tuple[str, str]] = {}
"""What this process has hashed, should the cache not be writable: state and hash by path."""


def sha256_file(path: Path, reporter: Reporter | None = None, stop: threading.Event | None = None) -> str:
    """The hex SHA-256 of a file; a large one is read again only if it was changed, see `key`.

    Args:
        reporter: is told how far it is, with files that take more than a moment.
        stop: ends it when set, by Interrupted.
    """
    n_bytes = path.stat().st_size
    large = n_bytes >= _SMALL
    if large and (found := _recall(*_name_and_state(key(path)))) is not None:
        return found
    before = _settled_key(path) if large else None
    teller = reporter if reporter is not None and n_bytes >= _LONG else SilentReporter()
    with teller.step(f"Reading {path.name}") as progress:
        digest = _read_and_hash(path, progress, n_bytes, stop)
    if before is not None and key(path) == before:
        _note(*_name_and_state(before), digest)
    return digest


def sha256_chunks(files: Sequence[Path], read: Callable[[], str]) -> str:
    """The hex SHA-256 of what several files hold together, read again only if one of them was changed."""
    if (found := _recall(*_names_and_states([key(file) for file in files]))) is not None:
        return found
    before = [_settled_key(file) for file in files]
    digest = read()
    if [key(file) for file in files] == before:
        _note(*_names_and_states(before), digest)
    return digest


def remember(path: Path, digest: str) -> None:
    """Note the hash of a file that was hashed under another name."""
    if path.stat().st_size >= _SMALL:
        _note(*_name_and_state(key(path)), digest)


def key(path: Path) -> Key:
    """Path, bytes, modification time (ns), inode, and time of the last change of any kind (ns): equal as long as nobody
    changes the file.

    Other content may have the same bytes and modification time, which anyone can set; the last two tell it then.
    """
    stat = path.stat()
    return str(path.resolve()), stat.st_size, stat.st_mtime_ns, stat.st_ino, stat.st_ctime_ns


def sha256_files(
    root: Path, files: Iterable[Path], reporter: Reporter | None = None, stop: threading.Event | None = None
) -> str:
    """One hash for a set of files: over their names relative to `root` and their contents."""
    listing = {str(file.relative_to(root)): sha256_file(file, reporter, stop) for file in files}
    return hashlib.sha256(json.dumps(listing, sort_keys=True).encode()).hexdigest()


def _settled_key(path: Path) -> Key:
    """The key of a file, once it is old enough for a further change to show in it."""
    age = time.time_ns() - path.stat().st_ctime_ns
    if 0 <= age < _TICK_NS:
        time.sleep((_TICK_NS - age) / 1e9)
    return key(path)


def _read_and_hash(path: Path, progress: Progress, n_bytes: int, stop: threading.Event | None) -> str:
    digest, done = hashlib.sha256(), 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            end_if(stop)
            digest.update(block)
            done += len(block)
            progress.update(done / GIB, n_bytes / GIB, "GiB")
    return digest.hexdigest()


def _recall(name: bytes, state: str) -> str | None:
    if (known := _known.get(name)) is not None and known[0] == state:
        return known[1]
    with contextlib.suppress(sqlite3.Error), _memory() as memory:
        found = memory.execute("SELECT sha256 FROM files WHERE path=? AND state=?", (name, state)).fetchone()
        return str(found[0]) if found else None
    return None


def _note(name: bytes, state: str, digest: str) -> None:
    _known[name] = state, digest
    with contextlib.suppress(sqlite3.Error), _memory() as memory:  # a full disk, say
        memory.execute("REPLACE INTO files VALUES (?, ?, ?)", (name, state, digest))


def _name_and_state(seen: Key) -> tuple[bytes, str]:
    """A key as it is remembered: a name may be in no encoding, an inode's number too large for SQLite."""
    path, *state = seen
    return os.fsencode(path), " ".join(map(str, state))


def _names_and_states(seen: Sequence[Key]) -> tuple[bytes, str]:
    names, states = zip(*map(_name_and_state, seen), strict=True)
    return b"\0".join([b"", *names]), " ".join(states)  # of one file, too, this is another hash than its own


@contextlib.contextmanager
def _memory() -> Iterator[sqlite3.Connection]:
    """The remembered hashes. A cache that cannot be written or is damaged costs time, never a result."""
    try:
        connection = _open(cache_dir() / "hashes.sqlite")
    except (sqlite3.Error, OSError):
        connection = _open(Path(":memory:"))
    with contextlib.closing(connection), connection:
        yield connection


def _open(path: Path) -> sqlite3.Connection:
    """The table `hashes`, which earlier versions have beside this one, does not tell all changes."""
    if path.name != ":memory:":
        path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path, timeout=10)
    connection.execute("CREATE TABLE IF NOT EXISTS files (path BLOB PRIMARY KEY, state TEXT, sha256 TEXT)")
    return connection
