"""One row of the table, and ways to read an input: as text, as a tool's output, as a file."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.fuzzing.mutate import Mutator, mutate
from ggufkit.core.errors import GgufkitError
from ggufkit.core.process import ToolOutput

Read = Callable[[bytes, Path], object]
"""Reads an input; may write files below the directory. It asserts what must hold of all that is read as right."""

ROOT = Path(__file__).parents[2]
_NUMBER = itertools.count()


@dataclass(frozen=True)
class Reader:
    """One row: `weight` says how many of all inputs it gets, the slower the fewer."""

    name: str
    samples: Sequence[bytes]
    read: Read
    mutator: Mutator = mutate
    weight: float = 1.0


def of_text(read: Callable[[str], object]) -> Read:
    """A reader of text, as a tool's output is decoded."""
    return lambda data, _place: read(data.decode("utf-8", "replace"))


def of_output(read: Callable[[ToolOutput], Any]) -> Read:
    """A reader of a tool's output, on one stream or in two at the end of a line; its figures are finite."""

    def run(text: str) -> None:
        cut = text.find("\n", len(text) // 2) + 1 if len(text) % 2 else 0
        found = read(ToolOutput(("llama-x", "-m", "x.gguf"), 0, text[cut:], text[:cut], 1.0))
        for record in found if isinstance(found, tuple) else (found,):
            assert all(math.isfinite(v) for v in vars(record).values() if isinstance(v, float))

    return of_text(run)


def of_file(read: Callable[[Path], object], name: str) -> Read:
    """A reader of a file of some name, alone in a new directory: files are remembered by path, size and time."""

    def run(data: bytes, place: Path) -> object:
        file = new_directory(place) / name
        file.write_bytes(data)
        try:
            return _naming(file.parent, lambda: read(file))
        finally:
            file.unlink()
            file.parent.rmdir()

    return run


def of_part(directory: Path, name: str, read: Callable[[Path], object]) -> Read:
    """A reader of a directory of which one file is the input; the rest is there as it was."""

    def run(data: bytes, place: Path) -> object:
        copy = new_directory(place)
        for file in directory.iterdir():
            if file.name != name:
                (copy / file.name).hardlink_to(file)
        (copy / name).write_bytes(data)
        try:
            return _naming(copy, lambda: read(copy))
        finally:
            for file in copy.iterdir():
                file.unlink()
            copy.rmdir()

    return run


def _naming(directory: Path, read: Callable[[], object]) -> object:
    """Read; a refusal must name the file, or the directory at least, and say what to do."""
    try:
        return read()
    except GgufkitError as error:
        if str(directory) not in error.message or not error.hint:
            raise AssertionError(f"no file is named, or no way out: {error.message}") from error
        raise


def new_directory(place: Path) -> Path:
    """An empty directory of a name that none had before."""
    made = place / f"{next(_NUMBER)}"
    made.mkdir()
    return made


def accepted(read: Read, samples: Sequence[bytes], place: Path = Path()) -> list[bytes]:
    """Those of the samples that are read without an error."""
    found = []
    for sample in samples:
        with contextlib.suppress(GgufkitError):
            read(sample, place)
            found.append(sample)
    return found
