"""What a step reads is what was hashed: the one door through which files reach tools."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ggufkit.core.errors import GgufkitError, InputError, Interrupted
from ggufkit.core.hashing import Key, key, sha256_file, sha256_files

State = Sequence[tuple[Key, int]]
"""The files of an input as they were at some moment, each with its number of links; none where one was gone."""


@dataclass(frozen=True)
class Input:
    """A file that is read, or several of one directory.

    Args:
        path: the file, or the directory.
        sha256: what it was hashed to: by `sha256_file`, or by `sha256_files` over `parts`.
        parts: lists the files of the directory that are read; None for a file.
        digest: how it was hashed, where that is neither of these.
    """

    path: Path
    sha256: str
    parts: Callable[[Path], Sequence[Path]] | None = None
    digest: Callable[[Path], str] | None = None

    @property
    def state(self) -> State:
        """The files as they are now."""
        try:
            return [(key(file), file.stat().st_nlink) for file in self._files()]
        except OSError:
            return []

    def has_its_content(self) -> bool:
        """Whether the hash is right: large files are only read where they have been touched."""
        try:
            return self._hash() == self.sha256
        except OSError:
            return False

    def is_as(self, before: State) -> bool:
        """Whether nobody has changed it since `before`.

        Links that are made or removed, and inodes that a network file system numbers anew, are no change: the hash decides.
        What was moved away, replaced and moved back has its content again, but was another while it was read.
        """
        now = self.state
        if len(now) != len(before) or not now or any(map(_was_touched, before, now)):
            return False
        return now == before or self.has_its_content()

    def _hash(self) -> str:
        if self.digest is not None:
            return self.digest(self.path)
        return sha256_file(self.path) if self.parts is None else sha256_files(self.path, self._files())

    def _files(self) -> Sequence[Path]:
        return [self.path] if self.parts is None else self.parts(self.path)


@contextlib.contextmanager
def unchanged(inputs: Sequence[Input]) -> Iterator[Callable[[], None]]:
    """Hold that inputs have the content of their hashes from before they are read to the end of the context.

    Yields:
        The same check, for who publishes something earlier.

    Raises:
        InputError: one of them was changed since it was hashed.
    """
    seen = [(one, one.state) for one in inputs]
    for one in inputs:
        if not one.has_its_content():
            raise _changed(one)

    def require() -> None:
        for one, before in seen:
            if not one.is_as(before):
                raise _changed(one)

    try:
        yield require
    except Interrupted:
        raise
    except GgufkitError:
        require()  # who stumbles over a change does not know of it
        raise
    require()


def _was_touched(before: tuple[Key, int], now: tuple[Key, int]) -> bool:
    """Whether a file is of another size or age; or the same one and changed otherwise than by a link to it."""
    (*named, inode, changed), links = before
    (*named_now, inode_now, changed_now), links_now = now
    return named_now != named or (inode_now == inode and changed_now != changed and links_now == links)


def _changed(one: Input) -> InputError:
    message = f"{one.path} changed while it was read: the result would not be what its manifest says."
    return InputError(message, hint="Repeat the command when nothing else writes to it.")
