"""Names of a GGUF's parts, as llama.cpp has them: NAME-00001-of-00003.gguf."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_NAME = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf")


@dataclass(frozen=True)
class PartName:
    """What a part's name says: `stem`-`number`-of-`count`.gguf, numbered from 1."""

    stem: str
    number: int
    count: int

    @property
    def pattern(self) -> str:
        """What fits all parts, and nothing else."""
        return f"{self.stem}-*-of-{self.count:05d}.gguf"

    def siblings(self) -> list[str]:
        """The names of all parts."""
        return [f"{self.stem}-{number:05d}-of-{self.count:05d}.gguf" for number in range(1, self.count + 1)]


def part_name(file: Path) -> PartName | None:
    """What a file is part of by its name; None for a file of its own."""
    found = _NAME.fullmatch(file.name)
    return PartName(found[1], int(found[2]), int(found[3])) if found else None


def whole_of(file: Path) -> Path:
    """Where the whole file lies, or would lie, that a part belongs to; the file itself for one of its own."""
    part = part_name(file)
    return file if part is None else file.with_name(f"{part.stem}.gguf")


def stem_of(file: Path) -> str:
    """What all that belongs to a GGUF is named by, whether it is whole or in parts."""
    return whole_of(file).stem


def by_whole(files: Iterable[Path]) -> dict[str, list[Path]]:
    """The parts among some files, by the name that the whole file has, in order."""
    found: dict[str, list[Path]] = {}
    for file in sorted(files):
        if part_name(file) is not None:
            found.setdefault(whole_of(file).name, []).append(file)
    return found
