"""SHA-256 of files, computed once and remembered by (path, size, mtime)."""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

from ggufkit.core.paths import cache_dir
from ggufkit.core.progress import Progress, Reporter, SilentReporter, end_if

_BLOCK = 1 << 22
_LONG = 1 << 30


def sha256_file(path: Path, reporter: Reporter | None = None, stop: threading.Event | None = None) -> str:
    """The hex SHA-256 of a file; read again only if its size or modification time changed.

    Args:
        reporter: is told how far it is, with files that take more than a moment.
        stop: ends it when set, by Interrupted.
    """
    with _memory() as memory:
        known = memory.execute(
            "SELECT sha256 FROM hashes WHERE path=? AND size=? AND mtime=?", key(path)
        ).fetchone()
    if known:
        return str(known[0])
    n_bytes = path.stat().st_size
    teller = reporter if reporter is not None and n_bytes >= _LONG else SilentReporter()
    with teller.step(f"Reading {path.name}") as progress:
        digest = _read_and_hash(path, progress, n_bytes, stop)
    remember(path, digest)
    return digest


def remember(path: Path, digest: str) -> None:
    """Note the hash of a file that was hashed under another name."""
    with contextlib.suppress(sqlite3.Error), _memory() as memory:  # a full disk, say
        memory.execute("REPLACE INTO hashes VALUES (?, ?, ?, ?)", (*key(path), digest))


def key(path: Path) -> tuple[str, int, int]:
    """Path, bytes and modification time (ns): equal as long as nobody changes the file."""
    stat = path.stat()
    return str(path.resolve()), stat.st_size, stat.st_mtime_ns


def sha256_files(
    root: Path, files: Iterable[Path], reporter: Reporter | None = None, stop: threading.Event | None = None
) -> str:
    """One hash for a set of files: over their names relative to `root` and their contents."""
    listing = {str(file.relative_to(root)): sha256_file(file, reporter, stop) for file in files}
    return hashlib.sha256(json.dumps(listing, sort_keys=True).encode()).hexdigest()


def _read_and_hash(path: Path, progress: Progress, n_bytes: int, stop: threading.Event | None) -> str:
    digest, done = hashlib.sha256(), 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            end_if(stop)
            digest.update(block)
            done += len(block)
            progress.update(done / 1e9, n_bytes / 1e9, "GB")
    return digest.hexdigest()


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
    if path.name != ":memory:":
        path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path, timeout=10)
    connection.execute(
        "CREATE TABLE IF NOT EXISTS hashes (path TEXT PRIMARY KEY, size INTEGER, mtime INTEGER, sha256 TEXT)"
    )
    return connection
