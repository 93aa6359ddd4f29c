"""The GGUF format, written: strings, values, entries of tensors, and a part of a split model.

Source: `docs/gguf.md` of ggml, and `src/llama-model-loader.cpp` for split models.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ggufkit.core.records import Tensor
from ggufkit.llama.gguf_header import GgufHeader
from ggufkit.llama.gguf_reader import MAGIC, mapped, parse

FIXED = struct.Struct("<4sIQQ")
"""Magic, version, tensors, key-value pairs."""
_UINT16, _UINT32, _INT32, _FLOAT32, _STRING = 2, 4, 5, 6, 8
_VERSION = 3
ALIGNMENT = 32
"""What data is padded to, where a file does not say."""
SPLIT = "split."
"""What the keys begin with that are about parts."""

MetadataValue = str | int | float
"""What a key that is added may be set to: stored as a string, a uint32 or a float32."""


@dataclass(frozen=True)
class PartTensor:
    """A tensor of a part: its type's number, its size in bytes, and what writes its data."""

    tensor: Tensor
    type_id: int
    n_bytes: int
    write: Callable[[BinaryIO], None]


@dataclass(frozen=True)
class Part:
    """Which of a split model's files one is; all files hold `n_tensors` together."""

    number: int
    count: int
    n_tensors: int

    @property
    def pairs(self) -> bytes:
        """The three key-value pairs that say so, in the order of llama-gguf-split."""
        no = string("split.no") + struct.pack("<IH", _UINT16, self.number)
        n_tensors = string("split.tensors.count") + struct.pack("<Ii", _INT32, self.n_tensors)
        return no + n_tensors + string("split.count") + struct.pack("<IH", _UINT16, self.count)


def string(text: str) -> bytes:
    """A string."""
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def value(of: MetadataValue) -> bytes:
    """A value with its type."""
    if isinstance(of, str):
        return struct.pack("<I", _STRING) + string(of)
    if isinstance(of, int):
        return struct.pack("<II", _UINT32, of)
    return struct.pack("<If", _FLOAT32, of)


def pairs(keys: Mapping[str, MetadataValue]) -> bytes:
    """Key-value pairs."""
    return b"".join(string(key) + value(of) for key, of in keys.items())


def info(tensor: Tensor, type_id: int, offset: int) -> bytes:
    """The entry of a tensor in the header, with the number of its type, and where its data begins behind the header."""
    n_dims = len(tensor.shape)
    return string(tensor.name) + struct.pack(f"<I{n_dims}QIQ", n_dims, *tensor.shape, type_id, offset)


def own_pairs(header: GgufHeader) -> tuple[int, bytes]:
    """How many key-value pairs a file has, and their bytes; without those that are about parts."""
    with mapped(header.path, header.data_offset) as data:
        spans = parse(header.path, data, header.start).spans
        kept = [data[start:end] for key, (start, end) in spans.items() if not key.startswith(SPLIT)]
    return len(kept), b"".join(kept)


def write_part(path: Path, part: Part, tensors: Sequence[PartTensor], whole: GgufHeader | None = None) -> None:
    """Write one file of a split model.

    Args:
        whole: the model whose metadata the first part has; llama.cpp asks the others for none.
    """
    n_pairs, metadata = own_pairs(whole) if whole is not None else (0, b"")
    alignment = whole.alignment if whole is not None else ALIGNMENT
    offset, entries = 0, b""
    for one in tensors:
        entries += info(one.tensor, one.type_id, offset)
        offset += padded(one.n_bytes, alignment)
    head = FIXED.pack(MAGIC, _VERSION, len(tensors), n_pairs + 3) + metadata + part.pairs + entries
    with path.open("wb") as file:
        file.write(head + bytes(-len(head) % alignment))
        for one in tensors:
            one.write(file)
            file.write(bytes(-one.n_bytes % alignment))


def padded(n_bytes: int, alignment: int) -> int:
    """Bytes that so many take in a file."""
    return -(-n_bytes // alignment) * alignment
