"""What is there of a sweep that was begun before: from its journal, and a look at the files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ggufkit.core.manifest import SUFFIX
from ggufkit.sweep import journal
from ggufkit.sweep.records import Outcome, StoredFile
from ggufkit.sweep.stores import Store


class Past:
    """How jobs ended before, the last time that they did something.

    Args:
        journal: the sweep's.
        store: its files.
    """

    def __init__(self, path: Path, store: Store) -> None:
        ended = (event.outcome for event in journal.read(path) if event.kind == "ended")
        self._known = {one.job: one for one in ended if one is not None and one.is_good and one.key}
        self._store = store

    def outcome(self, job: str, key: str) -> Outcome | None:
        """How a job ended that has nothing to do: what decides it is the same, and its files are there."""
        found = self._known.get(job)
        if found is None or found.key != key or not self._are_there(job.partition("|")[0], found.files):
            return None
        return replace(found, state="fresh", seconds=0.0, worker="")

    def _are_there(self, cell: str, files: Sequence[StoredFile]) -> bool:
        if not self._store.shared:
            return {f"{cell}/{file.name}" for file in files} <= set(self._store.names(f"{cell}/"))
        place = self._store.place(cell)
        return all(_is_there(place / file.name, file) for file in files)


def _is_there(path: Path, file: StoredFile) -> bool:
    """Whether a file looks as it did; manifests are noted in afterwards."""
    try:
        return path.stat().st_size == file.size_bytes or path.name.endswith(SUFFIX)
    except OSError:
        return False
