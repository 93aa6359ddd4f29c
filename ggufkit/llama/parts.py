"""A GGUF in parts, as llama.cpp splits it: how it is cut, and whether parts hold what the whole file does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ggufkit.core.errors import GgufError, UsageError
from ggufkit.core.part_names import part_name
from ggufkit.core.progress import Progress, Reporter
from ggufkit.core.records import Json, Tensor
from ggufkit.core.units import GIB, size
from ggufkit.llama import whole
from ggufkit.llama.gguf import GgufHeader, read_header
from ggufkit.llama.gguf_bytes import ALIGNMENT, SPLIT, Part, padded, write_part
from ggufkit.llama.gguf_header import read_own_header
from ggufkit.llama.part_set import require_set
from ggufkit.llama.same_tensors import kind, same_bytes


@dataclass(frozen=True)
class Cut:
    """How a GGUF is cut into parts.

    Args:
        groups: the tensors of each part, in the whole file's order.
    """

    groups: tuple[tuple[Tensor, ...], ...]

    @property
    def names(self) -> list[list[str]]:
        """Those of the tensors."""
        return [[tensor.name for tensor in group] for group in self.groups]

    def is_of(self, header: GgufHeader) -> bool:
        """Whether the parts of a GGUF are cut so, or a whole file is to stay whole."""
        return [[t.name for t in one.tensors] for one in header.parts or (header,)] == self.names


def cut(header: GgufHeader, limit: int) -> Cut:
    """How to cut a GGUF into parts of at most so many bytes.

    Tensors are put together as `llama-gguf-split --split-max-size` does it, in order and each as soon as it no longer fits;
    that counts tensors alone, so here the limit for them is less by as much as the header of the first part may take. A
    file within the limit stays whole.

    Source: `split_strategy` in `tools/gguf-split/gguf-split.cpp`.

    Raises:
        UsageError: a tensor is larger than that.
    """
    if whole.n_bytes(header) <= limit:
        return Cut((header.tensors,))
    room = limit - len(whole.head(header)) - len(Part(0, 0, 0).pairs)
    largest, step = max(header.tensors, key=lambda tensor: tensor.n_bytes), max(ALIGNMENT, header.alignment)
    if (missing := padded(largest.n_bytes, step) - room) > 0:
        message = (
            f"{header.path.name} has no parts of {size(limit)}: {largest.name} takes {size(largest.n_bytes)}."
        )
        raise UsageError(message, hint=f"Parts of {limit + missing:,} bytes are the smallest that hold it.")
    groups: list[list[Tensor]] = [[]]
    used = 0
    for tensor in header.tensors:
        n_bytes = padded(tensor.n_bytes, step)
        if used + n_bytes > room:
            groups.append([])
            used = 0
        groups[-1].append(tensor)
        used += n_bytes
    return Cut(tuple(map(tuple, groups)))


def write_parts(header: GgufHeader, wanted: Cut, paths: Sequence[Path], progress: Progress) -> None:
    """Write a GGUF in parts, byte for byte as llama-gguf-split does it."""
    found = {one.tensor.name: one for one in whole.tensors(header)}
    total = sum(tensor.n_bytes for tensor in header.tensors) / GIB
    done = 0
    for number, (path, group) in enumerate(zip(paths, wanted.groups, strict=True)):
        part = Part(number, len(paths), len(header.tensors))
        write_part(path, part, [found[t.name].as_part() for t in group], header if number == 0 else None)
        done += sum(tensor.n_bytes for tensor in group)
        progress.update(done / GIB, total, "GiB")


def difference(parts: Sequence[Path], of: Path, reporter: Reporter) -> str | None:
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
        headers = [read_own_header(part) for part in parts]
        require_set(headers)
    except GgufError as error:
        return error.message.rstrip(".")
    return _other_content(headers, read_header(of), reporter)


def _other_content(headers: Sequence[GgufHeader], of: GgufHeader, reporter: Reporter) -> str | None:
    tensors = [(header, tensor) for header in headers for tensor in header.tensors]
    if _facts(headers[0]) != _facts(of):
        return f"{headers[0].path.name} has other metadata"
    if [kind(tensor) for _, tensor in tensors] != [kind(tensor) for tensor in of.tensors]:
        return "they have other tensors"
    total = sum(tensor.n_bytes for tensor in of.tensors) / GIB
    comparing = f"Comparing {of.path.name} with its parts"
    with reporter.step(comparing, total) as progress, of.path.open("rb") as second:
        done = 0
        for (header, ours), theirs in zip(tensors, of.tensors, strict=True):
            with header.path.open("rb") as first:
                if not same_bytes(first, ours, second, theirs):
                    return f"{header.path.name} has other values of {ours.name}"
            done += ours.n_bytes
            progress.update(done / GIB, total, "GiB")
    return None


def _facts(header: GgufHeader) -> dict[str, Json]:
    return {key: value for key, value in header.metadata.items() if not key.startswith(SPLIT)}
