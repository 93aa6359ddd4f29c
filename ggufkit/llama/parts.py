"""A GGUF in parts, as llama.cpp splits it: which files they are, and whether they hold what the whole file does."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ggufkit.core.errors import GgufError, InputError
from ggufkit.core.progress import Reporter
from ggufkit.core.records import Json
from ggufkit.core.units import GIB
from ggufkit.llama.gguf import GgufHeader, read_header
from ggufkit.llama.same_tensors import kind, same_bytes

_NAME = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf")
_MOST_PARTS = 1000


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


def headers_of(path: Path, *, check_size: bool = True) -> list[GgufHeader]:
    """The headers of all files of a GGUF, of which any may be given; one for a file of its own.

    Args:
        check_size: require that each is as long as its tensors say.

    Raises:
        GgufError: one of them is not there or cannot be read.
        InputError: it is a part that is not called so.
    """
    first = read_header(path, check_size=check_size)
    if first.n_parts == 1:
        return [first]
    named = part_name(path)
    if named is None or named.count != first.n_parts or first.n_parts > _MOST_PARTS:
        message = f"{path} is one of {first.n_parts} parts of a split GGUF, and not called so."
        raise InputError(message, hint="Parts are called NAME-00001-of-00003.gguf; give one of them.")
    return [read_header(path.with_name(name), check_size=check_size) for name in named.siblings()]


def as_one(headers: Sequence[GgufHeader]) -> GgufHeader:
    """A header that tells of all tensors of a GGUF in parts; where they lie only the parts' own tell."""
    tensors = tuple(tensor for header in headers for tensor in header.tensors)
    return replace(headers[0], tensors=tensors, size_bytes=sum(header.size_bytes for header in headers))


def by_whole(files: Iterable[Path]) -> dict[str, list[Path]]:
    """The parts among some files, by the name that the whole file has, in order."""
    found: dict[str, list[Path]] = {}
    for file in sorted(files):
        if (part := part_name(file)) is not None:
            found.setdefault(f"{part.stem}.gguf", []).append(file)
    return found


def difference(parts: Sequence[Path], whole: Path, reporter: Reporter) -> str | None:
    """Why parts do not hold what a whole file does; None if they do, to the last byte.

    Args:
        parts: files that are called so, in order.
        reporter: is told how far it is: all of both is read.
    """
    names = [part_name(part) for part in parts]
    count = max(name.count for name in names if name is not None)
    numbers = [name.number for name in names if name is not None and name.count == count]
    missing = sorted(set(range(1, count + 1)) - set(numbers))
    if missing or len(numbers) != len(parts):
        return f"part {missing[0]} of {count} is not there" if missing else "they are of several splits"
    try:
        headers = [read_header(part) for part in parts]
    except GgufError as error:
        return error.message.rstrip(".")
    return _foreign(headers) or _other_content(headers, read_header(whole), reporter)


def _foreign(headers: Sequence[GgufHeader]) -> str | None:
    for number, header in enumerate(headers):
        if header.n_parts != len(headers) or header.metadata.get("split.no") != number:
            return f"{header.path.name} is not the part that its name says"
    return None


def _other_content(headers: Sequence[GgufHeader], whole: GgufHeader, reporter: Reporter) -> str | None:
    tensors = [(header, tensor) for header in headers for tensor in header.tensors]
    if _facts(headers[0]) != _facts(whole):
        return f"{headers[0].path.name} has other metadata"
    if [kind(tensor) for _, tensor in tensors] != [kind(tensor) for tensor in whole.tensors]:
        return "they have other tensors"
    total = sum(tensor.n_bytes for tensor in whole.tensors) / GIB
    comparing = f"Comparing {whole.path.name} with its parts"
    with reporter.step(comparing, total) as progress, whole.path.open("rb") as second:
        done = 0
        for (header, ours), theirs in zip(tensors, whole.tensors, strict=True):
            with header.path.open("rb") as first:
                if not same_bytes(first, ours, second, theirs):
                    return f"{header.path.name} has other values of {ours.name}"
            done += ours.n_bytes
            progress.update(done / GIB, total, "GiB")
    return None


def _facts(header: GgufHeader) -> dict[str, Json]:
    return {key: value for key, value in header.metadata.items() if not key.startswith("split.")}
