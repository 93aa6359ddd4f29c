"""The header of a safetensors file: which tensors it holds, and where. Limits and rules are the format's own:
https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ggufkit.core.errors import CheckpointError
from ggufkit.core.jsonfile import parse_json

_HEADER_LIMIT = 100_000_000
_MAX_DIMENSIONS = 32
_DTYPE_BITS = {
    "F64": 64, "I64": 64, "U64": 64, "C64": 64, "F32": 32, "I32": 32, "U32": 32, "F16": 16, "BF16": 16, "I16": 16,
    "U16": 16, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "I8": 8, "U8": 8,
    "BOOL": 8, "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4,
}  # fmt: skip
_AGAIN = "Download that file again."


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of a safetensors file: where its bytes lie, counted from the start of the file."""

    name: str
    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def n_elements(self) -> int:
        """Product of the shape."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class _Entry:
    """A tensor as the header has it."""

    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


def read_tensors(file: Path) -> list[StoredTensor]:
    """The tensors of a safetensors file, in the order of their bytes.

    Raises:
        CheckpointError: the file is truncated, or its header breaks a rule of the format.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        head = stream.read(8)
        (length,) = struct.unpack("<Q", head) if len(head) == 8 else (size,)
        if length > size - 8:
            raise _truncated(file, size)
        if length > _HEADER_LIMIT:
            raise _damaged(file, f"its header is {length:,} bytes long, at most {_HEADER_LIMIT:,} are allowed")
        entries = _entries(file, stream.read(length))
    tensors = [_stored(file, name, entry, 8 + length) for name, entry in entries.items()]
    tensors.sort(key=lambda tensor: (tensor.start, tensor.end))
    _require_contiguous(file, tensors, 8 + length, size)
    return tensors


def _entries(file: Path, header: bytes) -> dict[str, _Entry]:
    import msgspec

    fields = parse_json(header, dict[str, Any], f"The header of {file}", CheckpointError, hint=_AGAIN)
    try:
        msgspec.convert(fields.pop("__metadata__", {}), dict[str, str])
        return msgspec.convert(fields, dict[str, _Entry])
    except msgspec.ValidationError as error:
        raise _damaged(file, str(error)) from error


def _stored(file: Path, name: str, entry: _Entry, base: int) -> StoredTensor:
    start, end = entry.data_offsets
    if entry.dtype not in _DTYPE_BITS:
        raise _damaged(file, f"{name} has the unknown dtype {entry.dtype!r}")
    if len(entry.shape) > _MAX_DIMENSIONS:
        raise _damaged(file, f"{name} has {len(entry.shape):,} dimensions")
    if start < 0 or end < start or min(entry.shape, default=0) < 0:
        raise _damaged(file, f"{name} has a negative size or place")
    if math.prod(entry.shape) * _DTYPE_BITS[entry.dtype] != (end - start) * 8:
        raise _damaged(file, f"the size of {name} does not fit its shape")
    return StoredTensor(name, file, entry.dtype, entry.shape, base + start, base + end)


def _require_contiguous(file: Path, tensors: Sequence[StoredTensor], at: int, size: int) -> None:
    for tensor in tensors:
        if tensor.start != at:
            raise _damaged(file, f"{tensor.name} does not follow the tensor before it")
        at = tensor.end
    if at > size:
        raise _truncated(file, size, at)
    if at < size:
        raise _damaged(file, f"it has {size - at:,} bytes after its last tensor")


def _damaged(file: Path, why: str) -> CheckpointError:
    return CheckpointError(f"{file} is damaged: {why}.", hint=_AGAIN)


def _truncated(file: Path, size: int, needed: int | None = None) -> CheckpointError:
    wanted = f", its tensors need {needed:,}" if needed else ", too few for its header"
    return CheckpointError(f"{file} is truncated: it has {size:,} bytes{wanted}.", hint=_AGAIN)
