"""A GGUF in parts, as llama.cpp splits it: which files they are, and whether they hold what the whole file does."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ggufkit.core.errors import GgufError
from ggufkit.core.progress import Reporter
from ggufkit.core.records import Json, Tensor
from ggufkit.core.units import GIB
from ggufkit.llama.gguf import GgufHeader, read_header

_NAME = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf")
_BLOCK = 1 << 22


@dataclass(frozen=True)
class PartName:
    """What a part's name says: `stem`-`number`-of-`count`.gguf, numbered from 1."""

    stem: str
    number: int
    count: int


def part_name(file: Path) -> PartName | None:
    """What a file is part of by its name; None for a file of its own."""
    found = _NAME.fullmatch(file.name)
    return PartName(found[1], int(found[2]), int(found[3])) if found else None


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
    if [_kind(tensor) for _, tensor in tensors] != [_kind(tensor) for tensor in whole.tensors]:
        return "they have other tensors"
    total = sum(tensor.n_bytes for tensor in whole.tensors) / GIB
    with reporter.step(f"Comparing {whole.path.name} with its parts", total) as progress:
        done = 0
        for (header, ours), theirs in zip(tensors, whole.tensors, strict=True):
            if not _same_bytes(header.path, ours, whole.path, theirs):
                return f"{header.path.name} has other values of {ours.name}"
            done += ours.n_bytes
            progress.update(done / GIB, total, "GiB")
    return None


def _facts(header: GgufHeader) -> dict[str, Json]:
    return {key: value for key, value in header.metadata.items() if not key.startswith("split.")}


def _kind(tensor: Tensor) -> tuple[str, tuple[int, ...], str]:
    return tensor.name, tensor.shape, tensor.type


def _same_bytes(path: Path, tensor: Tensor, other_path: Path, other: Tensor) -> bool:
    with path.open("rb") as file, other_path.open("rb") as other_file:
        return all(a == b for a, b in zip(_blocks(file, tensor), _blocks(other_file, other), strict=True))


def _blocks(file: BinaryIO, tensor: Tensor) -> Iterator[bytes]:
    file.seek(tensor.offset)
    for start in range(0, tensor.n_bytes, _BLOCK):
        yield file.read(min(_BLOCK, tensor.n_bytes - start))
