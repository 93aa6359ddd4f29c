"""Read a GGUF's header: metadata, tensors, types, bits per weight.

The `gguf` package reads everything; for a vocabulary of 50,000 tokens that takes seconds. Here arrays are
skipped until they are asked for. Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import mmap
import struct
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import prod
from pathlib import Path

from ggufkit.core.errors import GgufError
from ggufkit.core.records import GgufFile, Json, Tensor

FLOAT_TYPES = ("F32", "F16", "BF16", "F64")
_INTEGER_TYPES = ("I8", "I16", "I32", "I64")
MAGIC = b"GGUF"
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_HINT = "Convert or download the file again."


@dataclass(frozen=True)
class GgufHeader:
    """A GGUF's header. `metadata` maps keys to scalars, strings and (decoded on first use) arrays."""

    path: Path
    version: int
    metadata: Mapping[str, Json]
    tensors: tuple[Tensor, ...]
    data_offset: int
    alignment: int
    size_bytes: int

    @property
    def architecture(self) -> str:
        """`general.architecture`, as llama.cpp calls it."""
        return str(self.metadata.get("general.architecture", "unknown"))

    @property
    def n_parts(self) -> int:
        """How many files hold the model; of several, a header tells of its own file only."""
        count = self.metadata.get("split.count", 1)
        return count if isinstance(count, int) else 1

    @cached_property
    def by_name(self) -> Mapping[str, Tensor]:
        """The tensors by name."""
        return {tensor.name: tensor for tensor in self.tensors}

    def hparam(self, name: str, default: int = 0) -> int:
        """An architecture's integer, e.g. `block_count`; the largest where it differs by layer."""
        value = self.metadata.get(f"{self.architecture}.{name}", default)
        numbers = value if isinstance(value, list) else [value]
        return max((int(v) for v in numbers if isinstance(v, (int, float))), default=default)


def read_header(path: Path, *, check_size: bool = True) -> GgufHeader:
    """Read the header of a GGUF.

    Args:
        check_size: require that the file is as long as its tensors say.

    Raises:
        GgufError: not a GGUF, big-endian, damaged, or truncated.
    """
    size, state = _size(path), path.stat()
    header = _read(path, size, (state.st_ino, state.st_mtime_ns))
    if check_size:
        _require_whole(header)
    return header


@lru_cache(maxsize=16)
def _read(path: Path, size: int, _state: tuple[int, int]) -> GgufHeader:
    """The header of a file in some state, read once: with a large vocabulary that takes a moment."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            return _parse(path, data, size)
        except (struct.error, IndexError, UnicodeDecodeError, KeyError, OverflowError) as error:
            message = f"{path} is truncated or damaged: its header cannot be read ({error})."
            raise GgufError(message, hint=_HINT) from error


def read_gguf(path: Path, sha256: str | None = None) -> GgufFile:
    """Read a GGUF into a record. Raises GgufError as `read_header` does, for a part of a split one, and without weights."""
    header = read_header(path)
    if header.n_parts > 1:
        message = f"{path} is one of {header.n_parts} parts of a split GGUF."
        hint = (
            "Merge them first: llama-gguf-split --merge FIRST-PART WHOLE.gguf. It comes with llama.cpp's releases."
        )
        raise GgufError(message, hint=hint)
    if not header.tensors:
        raise GgufError(f"{path} holds no weights, but a vocabulary at most.", hint="Give the model's own GGUF.")
    return summarize(header, sha256)


def summarize(header: GgufHeader, sha256: str | None = None) -> GgufFile:
    """The record of a GGUF whose header has been read."""
    types = Counter(tensor.type for tensor in header.tensors)
    return GgufFile(
        path=header.path,
        size_bytes=header.size_bytes,
        architecture=header.architecture,
        type=dominant_type(header),
        n_params=sum(tensor.n_elements for tensor in header.tensors),
        tensor_bytes=sum(tensor.n_bytes for tensor in header.tensors),
        tensor_types=dict(types.most_common()),
        sha256=sha256,
    )


def dominant_type(header: GgufHeader) -> str:
    """The type that holds most elements: F16 for a half-precision model with F32 norms."""
    elements: Counter[str] = Counter()
    for tensor in header.tensors:
        elements[tensor.type] += tensor.n_elements
    return elements.most_common(1)[0][0] if elements else "F32"


def named_type(header: GgufHeader) -> str | None:
    """What llama.cpp calls the mix of types, by `general.file_type`: Q4_K_M, where most tensors are Q4_K."""
    from gguf.constants import LlamaFileType

    try:
        name = str(LlamaFileType(header.metadata.get("general.file_type")).name)
    except ValueError:
        return None
    return name.removeprefix("MOSTLY_").removeprefix("ALL_")


def quantized_tensors(header: GgufHeader) -> list[Tensor]:
    """The tensors that hold blocks: neither floating point nor integers."""
    return [t for t in header.tensors if t.type not in (*FLOAT_TYPES, *_INTEGER_TYPES)]


def _size(path: Path) -> int:
    if not path.is_file():
        raise GgufError(f"{path} is not there.", hint="Give the path of a .gguf file.")
    size = path.stat().st_size
    if size == 0:
        raise GgufError(f"{path} is empty.", hint=_HINT)
    return size


def _require_whole(header: GgufHeader) -> None:
    end = max((t.offset + t.n_bytes for t in header.tensors), default=0)
    if header.size_bytes < end:
        message = f"{header.path} is truncated: it has {header.size_bytes:,} bytes, its tensors need {end:,}."
        raise GgufError(message, hint=_HINT)


class _Cursor:
    """A position in the header."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data = data
        self.at = 0

    def scalar(self, code: str) -> int | float | bool:
        """One little-endian value of a `struct` code."""
        (value,) = struct.unpack_from("<" + code, self.data, self.at)
        self.at += struct.calcsize("<" + code)
        return value  # type: ignore[no-any-return]

    def count(self) -> int:
        """A length; one beyond the file is damage, not a reason to allocate."""
        value = int(self.scalar("Q"))
        if value > len(self.data):
            raise IndexError("a length exceeds the file")
        return value

    def string(self) -> str:
        """A length-prefixed string. Metadata may hold broken UTF-8, which is kept visible."""
        raw = self.raw()
        return raw.decode("utf-8", "replace")

    def raw(self) -> bytes:
        """The bytes of a length-prefixed string."""
        size = self.count()
        start, self.at = self.at, self.at + size
        if self.at > len(self.data):
            raise IndexError("a string exceeds the file")
        return self.data[start : self.at]

    def value(self, kind: int) -> Json:
        """A metadata value of any kind."""
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            return self.array()
        return self.scalar(_SCALARS[kind])

    def array(self) -> list[Json]:
        """An array of values."""
        kind, count = int(self.scalar("I")), self.count()
        if kind in _SCALARS:
            code = f"<{count}{_SCALARS[kind]}"
            values = struct.unpack_from(code, self.data, self.at)
            self.at += struct.calcsize(code)
            return list(values)
        return [self.value(kind) for _ in range(count)]

    def skip(self, kind: int) -> None:
        """Step over an array of strings or arrays without decoding it."""
        if kind != _ARRAY:
            self.value(kind)
            return
        inner, count = int(self.scalar("I")), self.count()
        if inner in _SCALARS:
            self.at += count * struct.calcsize("<" + _SCALARS[inner])
        elif inner == _STRING:
            self._skip_strings(count)
        else:
            for _ in range(count):
                self.skip(inner)

    def _skip_strings(self, count: int) -> None:
        data, at, length = self.data, self.at, struct.Struct("<Q").unpack_from
        for _ in range(count):
            at += 8 + length(data, at)[0]
        self.at = at


class _Metadata(Mapping[str, Json]):
    """Key-value pairs; arrays are read from the file when asked for."""

    def __init__(self, path: Path, eager: dict[str, Json], arrays: dict[str, int]) -> None:
        self._path = path
        self._values = eager
        self._arrays = arrays

    def __getitem__(self, key: str) -> Json:
        if key in self._arrays and key not in self._values:
            with self._path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                cursor = _Cursor(data)
                cursor.at = self._arrays[key]
                self._values[key] = cursor.array()
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter([*self._values, *(k for k in self._arrays if k not in self._values)])

    def __len__(self) -> int:
        return len({*self._values, *self._arrays})


def _parse(path: Path, data: mmap.mmap, size: int) -> GgufHeader:
    cursor = _Cursor(data)
    version = _check_magic(path, cursor)
    n_tensors, n_pairs = cursor.count(), cursor.count()
    metadata = _parse_metadata(path, cursor, n_pairs)
    infos = [_parse_tensor(cursor) for _ in range(n_tensors)]
    align = metadata.get("general.alignment", 32)
    alignment = align if isinstance(align, int) and align > 0 else 32
    start = -(-cursor.at // alignment) * alignment
    return GgufHeader(path, version, metadata, _place(infos, start, size), start, alignment, size)


def _check_magic(path: Path, cursor: _Cursor) -> int:
    if cursor.data[:4] != MAGIC:
        raise GgufError(f"{path} is not a GGUF: it does not start with GGUF.", hint=_HINT)
    cursor.at = 4
    version = int(cursor.scalar("I"))
    if version & 0xFFFF == 0 and version:
        hint = "Convert it again without --bigendian; llama.cpp runs it on big-endian machines only."
        raise GgufError(f"{path} is a big-endian GGUF.", hint=hint)
    if version not in (2, 3):
        raise GgufError(f"{path} has GGUF version {version}; versions 2 and 3 are known.", hint=_HINT)
    return version


def _parse_metadata(path: Path, cursor: _Cursor, count: int) -> _Metadata:
    values: dict[str, Json] = {}
    arrays: dict[str, int] = {}
    for _ in range(count):
        key, kind = cursor.string(), int(cursor.scalar("I"))
        if kind == _ARRAY:
            arrays[key] = cursor.at
            cursor.skip(kind)
        else:
            values[key] = cursor.value(kind)
    return _Metadata(path, values, arrays)


_Info = tuple[str, tuple[int, ...], int, int]


def _parse_tensor(cursor: _Cursor) -> _Info:
    name = cursor.string()
    shape = tuple(cursor.count() for _ in range(int(cursor.scalar("I"))))
    kind = int(cursor.scalar("I"))
    return name, shape, kind, int(cursor.scalar("Q"))


def _place(infos: list[_Info], start: int, size: int) -> tuple[Tensor, ...]:
    """Give each tensor its type's name and its bytes; a type that `gguf` does not know yet reaches to the next."""
    offsets = sorted(info[3] for info in infos)
    ends = dict(zip(offsets, [*offsets[1:], size - start], strict=False))
    tensors = []
    for name, shape, kind, offset in infos:
        count = prod(shape)
        type_name, block, block_bytes = ggml_type(kind)
        n_bytes = count // block * block_bytes if block else ends[offset] - offset
        tensors.append(Tensor(name, shape, type_name, start + offset, count, n_bytes))
    return tuple(tensors)


_NEWER = {42: ("Q2_0", 64, 18)}
"""Types of the pinned llama.cpp that a release of the `gguf` package may lack: number -> name, elements and bytes of
a block. Source: `ggml/include/ggml.h`, `gguf-py/gguf/constants.py`."""


def ggml_type(kind: int) -> tuple[str, int, int]:
    """Name, elements per block and bytes per block of a ggml type; (name, 0, 0) for a type unknown to `gguf`."""
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    try:
        known = GGMLQuantizationType(kind)
    except ValueError:
        return _NEWER.get(kind, (f"type{kind}", 0, 0))
    block, block_bytes = GGML_QUANT_SIZES[known]
    return str(known.name), int(block), int(block_bytes)


def ggml_type_by_name(name: str) -> tuple[int, int]:
    """Elements per block and bytes per block of a ggml type. Raises GgufError if `gguf` does not know it."""
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    try:
        block, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType[name]]
    except KeyError:
        newer = {known: (elements, n_bytes) for known, elements, n_bytes in _NEWER.values()}
        if name in newer:
            return newer[name]
        raise GgufError(f"The size of ggml type {name} is not known.", hint="Update the gguf package.") from None
    return int(block), int(block_bytes)
