"""The bytes of the file that a GGUF's parts make together: what it was before it was split, and what it is joined to."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ggufkit.core.errors import GgufError
from ggufkit.core.hashing import sha256_chunks
from ggufkit.core.progress import Reporter, SilentReporter, end_if
from ggufkit.core.records import Tensor
from ggufkit.core.units import GIB
from ggufkit.llama.gguf_bytes import FIXED, MetadataValue, PartTensor, info, own_pairs, padded, pairs
from ggufkit.llama.gguf_header import GgufHeader
from ggufkit.llama.gguf_reader import HINT, MAGIC, mapped, parse

_BLOCK = 1 << 22


@dataclass(frozen=True)
class Located:
    """A tensor, the file that its data lies in, and the number of its type."""

    file: Path
    tensor: Tensor
    type_id: int

    def blocks(self) -> Iterator[bytes]:
        """Its data, some MiB at a time. Raises GgufError where the file ends before."""
        with self.file.open("rb") as source:
            source.seek(self.tensor.offset)
            left = self.tensor.n_bytes
            while left:
                if not (block := source.read(min(_BLOCK, left))):
                    raise GgufError(f"{self.file} became shorter while it was read.", hint=HINT)
                left -= len(block)
                yield block

    def as_part(self) -> PartTensor:
        """The tensor as it is written into another file."""

        def write(to: BinaryIO) -> None:
            for block in self.blocks():
                to.write(block)

        return PartTensor(self.tensor, self.type_id, self.tensor.n_bytes, write)


def tensors(header: GgufHeader) -> list[Located]:
    """All tensors of a GGUF, in order, in its file or its parts."""
    found = []
    for one in header.parts or (header,):
        with mapped(one.path, one.data_offset) as data:
            kinds = [raw.kind for raw in parse(one.path, data, one.start).tensors]
        found += [Located(one.path, tensor, kind) for tensor, kind in zip(one.tensors, kinds, strict=True)]
    return found


def head(header: GgufHeader, keys: Mapping[str, MetadataValue] | None = None) -> bytes:
    """The whole file's header, padded to where its data begins; with more keys in its metadata."""
    n_pairs, own = own_pairs(header)
    added = keys or {}
    offset, entries = 0, []
    for one in tensors(header):
        entries.append(info(one.tensor, one.type_id, offset))
        offset += padded(one.tensor.n_bytes, header.alignment)
    start = (
        FIXED.pack(MAGIC, header.version, len(entries), n_pairs + len(added))
        + own
        + pairs(added)
        + b"".join(entries)
    )
    return start + bytes(-len(start) % header.alignment)


def n_bytes(header: GgufHeader) -> int:
    """The bytes of the whole file."""
    data = sum(padded(tensor.n_bytes, header.alignment) for tensor in header.tensors)
    return len(head(header)) + data


def chunks(header: GgufHeader) -> Iterator[bytes]:
    """The whole file, from its start to its end."""
    yield head(header)
    for one in tensors(header):
        yield from one.blocks()
        yield padding(one.tensor, header)


def padding(tensor: Tensor, header: GgufHeader) -> bytes:
    """What follows a tensor's data in the whole file."""
    return bytes(-tensor.n_bytes % header.alignment)


def digest(header: GgufHeader, reporter: Reporter | None = None, stop: threading.Event | None = None) -> str:
    """The hex SHA-256 of the whole file; of parts that nobody changed it is remembered."""

    def read() -> str:
        found, done, total = hashlib.sha256(), 0, header.size_bytes / GIB
        with (reporter or SilentReporter()).step(f"Reading {header.path.name}") as progress:
            for block in chunks(header):
                end_if(stop)
                found.update(block)
                done += len(block)
                progress.update(done / GIB, total, "GiB")
        return found.hexdigest()

    return sha256_chunks(header.files, read)
