"""What reads images or sound for the files of a directory: no row of the tables, but told of beside them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ggufkit.core.errors import GgufkitError
from ggufkit.core.manifest import manifest_path, read_manifest
from ggufkit.core.units import size
from ggufkit.llama.mmproj import PREFIX, read_projector
from ggufkit.steps import mmproj
from ggufkit.steps.mmproj import MmprojNotes


@dataclass(frozen=True)
class Told:
    """A file that reads images or sound, and what is noted of it."""

    path: Path
    size_bytes: int
    sees: bool
    notes: MmprojNotes

    @property
    def sentence(self) -> str:
        """What it is, and what an image does to an answer where that was looked at."""
        said = f"{self.path.name} ({size(self.size_bytes)}) reads {self.notes.reads} for all of these files"
        seen = self.notes.image_tokens is not None and self.notes.image_difference is not None
        if not seen:
            return f"{said}."
        return f"{said}: {mmproj.Sight(self.notes.image_tokens or 0, self.notes.image_difference or 0.0)}."


def manifests(root: Path) -> list[Path]:
    """Where is noted how such files were made."""
    return sorted(manifest_path(file) for file in root.glob(f"{PREFIX}*.gguf"))


def collect(root: Path) -> list[Told]:
    """Those that were made here, and can be read."""
    return list(_collect(root))


def _collect(root: Path) -> Iterator[Told]:
    for file in sorted(root.glob(f"{PREFIX}*.gguf")):
        made = read_manifest(file)
        if made is None or made.step != mmproj.STEP:
            continue
        try:
            read = read_projector(file)
        except GgufkitError:
            continue
        yield Told(file, file.stat().st_size, read.sees, MmprojNotes.from_manifest(made))
