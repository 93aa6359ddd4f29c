"""The header of one file: metadata, tensors, and where their data lies.

The `gguf` package reads everything; for a vocabulary of 50,000 tokens that takes seconds. Here arrays are
skipped until they are asked for.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from math import isfinite, prod
from pathlib import Path

from ggufkit.core.errors import GgufError
from ggufkit.core.jsonfile import LFS_POINTER
from ggufkit.core.records import Json, Tensor
from ggufkit.llama.ggml_types import ggml_type
from ggufkit.llama.gguf_reader import HINT, MAGIC, MAX_HEADER, Damaged, RawHeader, mapped, parse


@dataclass(frozen=True)
class GgufHeader:
    """A GGUF's header. `metadata` maps keys to scalars, strings and (decoded on first use) arrays.

    Of a GGUF in parts it is that of all of them: `path` is the first, `parts` have the others' own.

    Args:
        start: where the header begins in the file, which is 0 but where files were joined end to end.
    """

    path: Path
    version: int
    metadata: Mapping[str, Json]
    tensors: tuple[Tensor, ...]
    data_offset: int
    alignment: int
    size_bytes: int
    parts: tuple[GgufHeader, ...] = ()
    start: int = 0

    @property
    def architecture(self) -> str:
        """`general.architecture`, as llama.cpp calls it."""
        return str(self.metadata.get("general.architecture", "unknown"))

    @property
    def n_parts(self) -> int:
        """How many files hold the model. llama-gguf-split leaves a 0 in what it joined."""
        count = self.metadata.get("split.count", 1)
        return max(count, 1) if isinstance(count, int) else 1

    @property
    def files(self) -> list[Path]:
        """The files that hold the model."""
        return [part.path for part in self.parts] or [self.path]

    def file_of(self, tensor: Tensor) -> Path:
        """The file that holds a tensor's data."""
        return next((part.path for part in self.parts if tensor.name in part.by_name), self.path)

    @property
    def end(self) -> int:
        """Where the data ends, without what it is padded with."""
        return max((t.offset + t.n_bytes for t in self.tensors), default=min(self.data_offset, self.size_bytes))

    @cached_property
    def by_name(self) -> Mapping[str, Tensor]:
        """The tensors by name."""
        return {tensor.name: tensor for tensor in self.tensors}

    def hparam(self, name: str, default: int = 0) -> int:
        """An architecture's integer, e.g. `block_count`; the largest where it differs by layer."""
        value = self.metadata.get(f"{self.architecture}.{name}", default)
        numbers = value if isinstance(value, list) else [value]
        return max((int(v) for v in numbers if isinstance(v, (int, float)) and isfinite(v)), default=default)


def read_own_header(path: Path, *, check_size: bool = True) -> GgufHeader:
    """The header of one file alone, as `read_header` reads it."""
    size, state = _size(path), path.stat()
    header = _read(path, size, (state.st_ino, state.st_mtime_ns, state.st_ctime_ns))
    if check_size:
        _require_whole(header)
    return header


@lru_cache(maxsize=64)
def _read(path: Path, size: int, _state: tuple[int, int, int]) -> GgufHeader:
    """The header of a file in some state, read once: with a large vocabulary that takes a moment."""
    with mapped(path) as data:
        return _header_at(path, data, 0, size)


def _header_at(path: Path, data: mmap.mmap, at: int, size: int) -> GgufHeader:
    """The header that begins somewhere in a file of so many bytes."""
    try:
        version, raw = _check_magic(path, data, at), parse(path, data, at)
        start = at + -(-(raw.end - at) // raw.alignment) * raw.alignment
        tensors = tuple(_place(raw, start, size))
        return GgufHeader(path, version, raw.metadata, tensors, start, raw.alignment, size, start=at)
    except (Damaged, struct.error, OverflowError) as error:
        message = f"{path} is truncated or damaged: its header cannot be read ({error})."
        raise GgufError(message, hint=HINT) from error


def joined_headers(path: Path) -> list[GgufHeader]:
    """The headers in a file of parts that were joined end to end, as `cat` does, in the order of the parts.

    Raises:
        GgufError: one of them cannot be read.
    """
    size, found = _size(path), list[GgufHeader]()
    at: int | None = 0
    while at is not None:
        with mapped(path, at + MAX_HEADER) as data:
            header = _header_at(path, data, at, size)
        _require_whole(header)
        after = next_start(header)
        found.append(replace(header, size_bytes=(size if after is None else after) - at))
        at = after
    return sorted(found, key=lambda header: str(header.metadata.get("split.no", "")).zfill(5))


def next_start(header: GgufHeader) -> int | None:
    """Where another GGUF begins behind the data of one in the same file; None where there is none."""
    padded = header.data_offset - (header.data_offset - header.end) // header.alignment * header.alignment
    with header.path.open("rb") as file:
        for at in (padded, header.end):
            file.seek(at)
            if file.read(len(MAGIC)) == MAGIC:
                return at
    return None


def _size(path: Path) -> int:
    if not path.is_file():
        why = "is no regular file" if path.exists() else "is not there"
        raise GgufError(f"{path} {why}.", hint="Give the path of a .gguf file.")
    size = path.stat().st_size
    if size == 0:
        raise GgufError(f"{path} is empty.", hint=HINT)
    return size


def _require_whole(header: GgufHeader) -> None:
    if header.size_bytes < header.end:
        message = (
            f"{header.path} is truncated: it has {header.size_bytes:,} bytes, its tensors need {header.end:,}."
        )
        raise GgufError(message, hint=HINT)


def _check_magic(path: Path, data: mmap.mmap, at: int) -> int:
    if data[at : at + len(LFS_POINTER)] == LFS_POINTER:
        message = f"{path} is a pointer of Git LFS, not the file itself."
        raise GgufError(message, hint=f"Fetch the files: `git lfs pull`, in {path.parent}.")
    if data[at : at + 4] != MAGIC:
        raise GgufError(f"{path} is not a GGUF: it does not start with GGUF.", hint=HINT)
    (version,) = struct.unpack_from("<I", data, at + 4)
    if version & 0xFFFF == 0 and version:
        hint = "Convert it again without --bigendian; llama.cpp runs it on big-endian machines only."
        raise GgufError(f"{path} is a big-endian GGUF.", hint=hint)
    if version not in (2, 3):
        raise GgufError(f"{path} has GGUF version {version}; versions 2 and 3 are known.", hint=HINT)
    return int(version)


def _place(raw: RawHeader, start: int, size: int) -> Iterator[Tensor]:
    """Each tensor with its type's name and its bytes; a type that `gguf` does not know yet reaches to the next.

    Raises:
        Damaged: a tensor does not begin where the one before ends, which llama.cpp refuses.
    """
    expected = 0
    following = [*(info.offset for info in raw.tensors[1:]), size - start]
    for info, after in zip(raw.tensors, following, strict=False):
        if info.offset != expected:
            raise Damaged(f"the tensor {info.name!r} begins at {info.offset:,}, not at {expected:,}")
        count = prod(info.shape)
        type_name, block, block_bytes = ggml_type(info.kind)
        if block and (info.shape[0] if info.shape else 1) % block:
            raise Damaged(f"the rows of the tensor {info.name!r} are no multiple of {block} for {type_name}")
        n_bytes = count // block * block_bytes if block else after - info.offset
        expected = expected + -(-n_bytes // raw.alignment) * raw.alignment if block else after
        yield Tensor(info.name, info.shape, type_name, start + info.offset, count, n_bytes)
