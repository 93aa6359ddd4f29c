"""Base logits that outlive an evaluation: several, one after the other, compare files with one base."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ggufkit.core.process import ToolOutput

Made = tuple[Path, ToolOutput]
"""A file of base logits, and how the pass that wrote it ended."""


class KeptLogits:
    """The logits of one base, in each setting in which it was evaluated; those of the base before it are gone.

    Args:
        directory: on a disk of this machine, and of this process alone.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._base = ""
        self._kept: dict[str, Made] = {}

    def make_room(self, base_sha256: str) -> None:
        """Drop what is of another base."""
        if base_sha256 != self._base:
            self.drop()
            self._base = base_sha256

    def get(self, key: str, make: Callable[[Path], ToolOutput]) -> Made:
        """What is kept under a key that tells all that decides it; made now where nothing is.

        Args:
            make: writes the logits, and raises where they are not whole.
        """
        if key not in self._kept:
            self.directory.mkdir(parents=True, exist_ok=True)
            path = self.directory / f"{key}.logits"
            try:
                self._kept[key] = path, make(path)
            except BaseException:
                path.unlink(missing_ok=True)
                raise
        return self._kept[key]

    def drop(self) -> None:
        """Remove all of it."""
        for path, _ in self._kept.values():
            path.unlink(missing_ok=True)
        self._kept.clear()
