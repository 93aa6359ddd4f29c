"""A GGUF's header from its bytes, within the limits of the format and of what any model needs.

Limits and rules are llama.cpp's own (`ggml/src/gguf.cpp`, `GGML_MAX_DIMS`, `GGML_MAX_NAME`); where it has none, or one in
the billions, the limit here is several times what the largest models need, and takes a second and 300 MB at most.
Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

from ggufkit.core.errors import GgufError
from ggufkit.core.records import Json

MAGIC = b"GGUF"
MAX_HEADER = 48 << 20
"""Bytes before the tensor data; a vocabulary of 262,144 tokens with its merges takes 18 MB."""
MAX_ENTRIES = 1 << 16
"""Tensors, and likewise keys."""
MAX_ITEMS = 1 << 21
"""Values of an array."""
_MAX_DIMS, _MAX_NAME, _MAX_KEY = 4, 63, 65535
_MAX_ELEMENTS = 2**63 - 1
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_UINT32, _STRING, _ARRAY = 4, 8, 9
_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")
_ALIGNMENT = "general.alignment"
HINT = "Convert or download the file again."


class Damaged(ValueError):
    """A header that breaks a rule, in words."""


@dataclass(frozen=True)
class TensorInfo:
    """A tensor as a header tells of it; `offset` counts from the start of the data."""

    name: str
    shape: tuple[int, ...]
    kind: int
    offset: int


@dataclass(frozen=True)
class RawHeader:
    """What stands in a header, where each key with its value does, and where it ends: in bytes of the file."""

    metadata: Mapping[str, Json]
    alignment: int
    tensors: tuple[TensorInfo, ...]
    end: int
    spans: Mapping[str, tuple[int, int]]


def parse(path: Path, data: mmap.mmap, start: int = 0) -> RawHeader:
    """Read the header behind magic and version.

    Args:
        data: the file, or its first MAX_HEADER bytes.
        start: where it begins, in a file of several.

    Raises:
        Damaged, struct.error, OverflowError: it breaks a rule, or ends too early.
    """
    cursor = _Cursor(data, start + 8)
    n_tensors, n_pairs = cursor.count(MAX_ENTRIES, "tensors"), cursor.count(MAX_ENTRIES, "keys")
    metadata, alignment, spans = _pairs(path, cursor, n_pairs)
    tensors = tuple(_tensor(cursor) for _ in range(n_tensors))
    if len({tensor.name for tensor in tensors}) < n_tensors:
        raise Damaged("two tensors have one name")
    return RawHeader(metadata, alignment, tensors, cursor.at, spans)


def _pairs(path: Path, cursor: _Cursor, count: int) -> tuple[Metadata, int, dict[str, tuple[int, int]]]:
    values: dict[str, Json] = {}
    arrays: dict[str, int] = {}
    spans: dict[str, tuple[int, int]] = {}
    alignment = 32
    for _ in range(count):
        begins = cursor.at
        key, kind = cursor.text(_MAX_KEY, "characters in a key"), cursor.u32()
        if not key or key in values or key in arrays:
            raise Damaged(f"the key {key[:80]!r} is there twice" if key else "a key is empty")
        if kind == _ARRAY:
            arrays[key] = cursor.at
            cursor.skip_array()
        else:
            values[key] = cursor.value(kind)
        if key == _ALIGNMENT:
            alignment = _power_of_two(values.get(key), kind)
        spans[key] = begins, cursor.at
    return Metadata(path, values, arrays), alignment, spans


def _power_of_two(value: Json, kind: int) -> int:
    if kind != _UINT32 or not isinstance(value, int) or value == 0 or value & (value - 1):
        raise Damaged(f"the alignment {str(value)[:80]!r} is no power of two")
    return value


def _tensor(cursor: _Cursor) -> TensorInfo:
    name = cursor.text(_MAX_NAME, "characters in a tensor's name")
    n_dims = cursor.u32()
    if n_dims > _MAX_DIMS:
        raise Damaged(f"the tensor {name!r} has {n_dims:,} dimensions, {_MAX_DIMS} are the most")
    *shape, kind, offset = cursor.unpack(f"<{n_dims}QIQ")
    if max(shape, default=0) > _MAX_ELEMENTS or prod(n for n in shape if n) > _MAX_ELEMENTS:
        raise Damaged(f"the tensor {name!r} has the shape {tuple(shape)}")
    return TensorInfo(name, tuple(shape), kind, offset)


class _Cursor:
    """A position in the header."""

    def __init__(self, data: mmap.mmap, at: int) -> None:
        self.data = data
        self.at = at

    def u32(self) -> int:
        """A number of four bytes."""
        (value,) = _U32.unpack_from(self.data, self.at)
        self.at += 4
        return int(value)

    def unpack(self, code: str) -> tuple[int, ...]:
        """Values of a `struct` code."""
        values = struct.unpack_from(code, self.data, self.at)
        self.at += struct.calcsize(code)
        return values

    def count(self, most: int, what: str) -> int:
        """How many follow: one beyond the limit is damage, no reason to allocate."""
        (value,) = _U64.unpack_from(self.data, self.at)
        self.at += 8
        if value > most:
            raise Damaged(f"it tells of {value:,} {what}")
        return int(value)

    def text(self, most: int, what: str) -> str:
        """A length-prefixed string. It may hold broken UTF-8, which is kept visible."""
        size = self.count(most, what)
        start, self.at = self.at, self.at + size
        self.require()
        return self.data[start : self.at].decode("utf-8", "replace")

    def value(self, kind: int) -> Json:
        """A value that is no array."""
        if kind == _STRING:
            return self.text(MAX_HEADER, "characters in a value")
        (value,) = self.unpack("<" + _code(kind))
        return value

    def array(self) -> list[Json]:
        """An array of values."""
        kind, count = self.u32(), self.count(MAX_ITEMS, "values in an array")
        if kind == _STRING:
            return self._strings(count)
        return list(self.unpack(f"<{count}{_code(kind)}"))

    def skip_array(self) -> None:
        """Step over an array without decoding it."""
        kind, count = self.u32(), self.count(MAX_ITEMS, "values in an array")
        if kind == _STRING:
            self._skip_strings(count)
        else:
            self.at += count * struct.calcsize("<" + _code(kind))
        self.require()

    def _strings(self, count: int) -> list[Json]:
        data, at, length = self.data, self.at, _U64.unpack_from
        values: list[Json] = []
        for _ in range(count):
            start = at + 8
            at = start + length(data, at)[0]
            values.append(data[start:at].decode("utf-8", "replace"))
        return values

    def _skip_strings(self, count: int) -> None:
        data, at, length = self.data, self.at, _U64.unpack_from
        for _ in range(count):
            at += 8 + length(data, at)[0]
        self.at = at

    def require(self) -> None:
        """Raise Damaged where the position lies beyond the end."""
        if self.at > len(self.data):
            raise Damaged("a value reaches beyond the end")


def _code(kind: int) -> str:
    if kind == _ARRAY:
        raise Damaged("an array holds arrays, which llama.cpp does not read")
    if kind not in _SCALARS:
        raise Damaged(f"a value is of type {kind:,}, which GGUF does not have")
    return _SCALARS[kind]


class Metadata(Mapping[str, Json]):
    """Key-value pairs; arrays are read from the file when asked for."""

    def __init__(self, path: Path, eager: dict[str, Json], arrays: dict[str, int]) -> None:
        self._path = path
        self._values = eager
        self._arrays = arrays

    def __getitem__(self, key: str) -> Json:
        if key in self._arrays and key not in self._values:
            try:
                with mapped(self._path) as data:
                    self._values[key] = _Cursor(data, self._arrays[key]).array()
            except (ValueError, OSError, OverflowError, struct.error) as error:
                message = f"{self._path} was changed while it was read: {key} cannot be read ({error})."
                raise GgufError(message, hint=HINT) from error
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter([*self._values, *(k for k in self._arrays if k not in self._values)])

    def __len__(self) -> int:
        return len({*self._values, *self._arrays})


def mapped(path: Path, least: int = 0) -> mmap.mmap:
    """The part of a file that may be its header, and at least so many bytes of it."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        return mmap.mmap(file.fileno(), min(size, max(MAX_HEADER, least)), access=mmap.ACCESS_READ)
