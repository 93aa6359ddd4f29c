"""Downloads side by side: resumed, limited, watched by their size on disk, and ended at once when the user says so."""

from __future__ import annotations

import contextlib
import os
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from ggufkit.core.concurrency import Job, background, run_linked
from ggufkit.core.errors import Interrupted, SourceError
from ggufkit.core.progress import Reporter
from ggufkit.core.units import MIB
from ggufkit.hub import failures
from ggufkit.hub.failures import Hints
from ggufkit.hub.http import Access, Meter
from ggufkit.hub.listing import RemoteFile, Repo, defect

if TYPE_CHECKING:
    import requests

T = TypeVar("T")

WORKERS = 4
_EVERY_S = 0.3
_PATIENCE_S = 5.0
_BLOCK = 1 << 20
_TRIES = 4
_WORTHWHILE = 1 << 16
"""Bytes that make an attempt count as progress: a connection for each byte is none."""
_RANGE = re.compile(r"bytes (\d{1,15})-\d{1,15}/(\d{1,15}|\*)")


def one_display() -> None:
    """Keep the libraries from drawing bars of their own; they read this when they are loaded."""
    os.environ.setdefault("TQDM_DISABLE", "1")


@contextlib.contextmanager
def watching(title: str, size: Callable[[], int], total: int, reporter: Reporter) -> Iterator[None]:
    """Report how many bytes are there while the work of the context is done.

    Args:
        size: bytes that are on disk, of `total`.
    """
    with reporter.step(title, total / MIB) as progress:

        def look(over: threading.Event) -> None:
            while not over.wait(_EVERY_S):
                with contextlib.suppress(OSError):
                    progress.update(size() / MIB, total / MIB, "MiB")

        with background(look):
            yield


def download_all(jobs: Sequence[Job[None]]) -> None:
    """Run downloads side by side; the first failure, or an interrupt, ends them all."""
    run_linked(jobs, at_once=WORKERS, patience_s=_PATIENCE_S)


@dataclass(frozen=True)
class Content:
    """Where the content of a file is: at which hub, under which address."""

    access: Access
    hints: Hints
    repo: Repo
    file: RemoteFile
    url: str

    def bring(self, target: Path, cancel: threading.Event) -> None:
        """Fetch the content to `target`, going on from what an earlier attempt left beside it.

        Raises:
            SourceError: the hub refuses, stalls, or sends something else than it lists.
            Interrupted: the event was set.
        """
        part, failed = unfinished(target), 0
        while (before := size_of(part)) != self.file.size or not part.is_file():
            if before > self.file.size:
                part.unlink()
                continue
            try:
                self._append_rest(part, cancel)
            except Exception as error:
                if cancel.is_set():
                    raise Interrupted(f"The download of {self.file.path} was stopped.") from None
                failed = 0 if size_of(part) >= before + _WORTHWHILE else failed + 1
                wait = failures.advised_wait(error, failed)
                if failed >= _TRIES or wait is None:
                    raise self._explain(error) from error
                pause(cancel, wait)
        self.require_right(part)
        part.replace(target)

    def _append_rest(self, part: Path, cancel: threading.Event) -> None:
        start = size_of(part)
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
        with self.access.open(self.url, headers) as response, part.open("ab") as sink:
            start = self._start_of(response, start)
            sink.truncate(start)
            meter, left = Meter(), self.file.size - start
            while block := response.raw.read1(_BLOCK, decode_content=False):
                if cancel.is_set():
                    raise Interrupted("The download was stopped.")
                if len(block) > left:
                    raise self._other(f"sends more than the {self.file.size:,} bytes that it lists")
                sink.write(block)
                left -= len(block)
                meter.count(len(block))
        if left:
            raise ConnectionError(f"{left:,} of {self.file.size:,} bytes did not come")

    def _start_of(self, response: requests.Response, asked: int) -> int:
        """Where in the file the body begins. Raises SourceError where it cannot be what was asked for."""
        encoding = response.headers.get("Content-Encoding", "").strip().lower()
        if encoding not in ("", "identity"):
            raise self._other(f"packs a file ({encoding[:20]}) that is asked for as it is")
        start, whole = 0, response.raw.length_remaining
        if response.status_code == 206:
            parts = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
            if parts is None or int(parts[1]) != asked:
                raise self._other("sends another part than was asked for")
            start = asked
            whole = None if parts[2] == "*" else int(parts[2])
        if whole is not None and whole != self.file.size:
            raise self._other(f"offers {whole:,} bytes where it lists {self.file.size:,}")
        return start

    def _other(self, does: str) -> SourceError:
        message = f"{self.access.host} {does}: {self.file.path} of {self.repo}."
        return SourceError(message, hint=self.hints.changed)

    def _explain(self, error: Exception) -> Exception:
        return failures.explain(error, self.repo, self.access.host, self.hints, self.file.path)

    def require_right(self, path: Path) -> None:
        """Remove a file that is not the one listed, and raise SourceError."""
        wrong = defect(path, self.file)
        if wrong is not None:
            path.unlink(missing_ok=True)
            message = f"{self.file.path} of {self.repo.id} from {self.access.host} {wrong}: it was removed."
            raise SourceError(message, hint=self.hints.changed)


def pause(cancel: threading.Event, seconds: float) -> None:
    """Wait, or until cancelled."""
    cancel.wait(seconds)


def unfinished(target: Path) -> Path:
    """What a file is called until it is whole, as the hubs' own libraries call it."""
    return target.with_name(target.name + ".incomplete")


def size_of(path: Path) -> int:
    """Bytes of a file, 0 where there is none."""
    return path.stat().st_size if path.is_file() else 0


def by_content(files: Sequence[RemoteFile], key: Callable[[RemoteFile], T]) -> dict[T, list[RemoteFile]]:
    """Files by what tells their contents apart: each content is downloaded once, whatever number of names it has."""
    found: dict[T, list[RemoteFile]] = {}
    for file in files:
        found.setdefault(key(file), []).append(file)
    return found
