"""What a GGUF's header says: metadata, tensors, types, bits per weight.

The `gguf` package reads everything; for a vocabulary of 50,000 tokens that takes seconds. Here arrays are
skipped until they are asked for.
"""

from __future__ import annotations

import mmap
import struct
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import isfinite, prod
from pathlib import Path

from ggufkit.core.errors import GgufError
from ggufkit.core.records import GgufFile, Json, Tensor
from ggufkit.llama.gguf_reader import HINT, Damaged, RawHeader, mapped, parse

OUTPUT, EMBEDDING = "output.weight", "token_embd.weight"
FLOAT_TYPES = ("F32", "F16", "BF16", "F64")
_INTEGER_TYPES = ("I8", "I16", "I32", "I64")
MAGIC = b"GGUF"
_BESIDE_A_MODEL = {
    "adapter": "a LoRA adapter",
    "mmproj": "the part of one that reads images or sound",
    "imatrix": "an importance matrix",
}
"""What `general.type` says of files that no text is computed with alone."""


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
        return max((int(v) for v in numbers if isinstance(v, (int, float)) and isfinite(v)), default=default)


def read_header(path: Path, *, check_size: bool = True) -> GgufHeader:
    """Read the header of a GGUF.

    Args:
        check_size: require that the file is as long as its tensors say.

    Raises:
        GgufError: not a GGUF, big-endian, damaged, or truncated.
    """
    size, state = _size(path), path.stat()
    header = _read(path, size, (state.st_ino, state.st_mtime_ns, state.st_ctime_ns))
    if check_size:
        _require_whole(header)
    return header


@lru_cache(maxsize=16)
def _read(path: Path, size: int, _state: tuple[int, int, int]) -> GgufHeader:
    """The header of a file in some state, read once: with a large vocabulary that takes a moment."""
    with mapped(path) as data:
        try:
            version, raw = _check_magic(path, data), parse(path, data)
            start = -(-raw.end // raw.alignment) * raw.alignment
            tensors = tuple(_place(raw, start, size))
            return GgufHeader(path, version, raw.metadata, tensors, start, raw.alignment, size)
        except (Damaged, struct.error, OverflowError) as error:
            message = f"{path} is truncated or damaged: its header cannot be read ({error})."
            raise GgufError(message, hint=HINT) from error


def read_gguf(path: Path, sha256: str | None = None) -> GgufFile:
    """Read a GGUF into a record. Raises GgufError as `read_header` does, and where it is no whole model."""
    header = read_header(path)
    if header.n_parts > 1:
        message = f"{path} is one of {header.n_parts} parts of a split GGUF."
        hint = (
            "Merge them first: llama-gguf-split --merge FIRST-PART WHOLE.gguf. It comes with llama.cpp's releases."
        )
        raise GgufError(message, hint=hint)
    kind = "mmproj" if header.architecture == "clip" else str(header.metadata.get("general.type"))
    if (what := _BESIDE_A_MODEL.get(kind)) is not None:
        raise GgufError(f"{path} is no model, but {what}.", hint="Give the GGUF of the model that it belongs to.")
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


def output_of(header: GgufHeader) -> str:
    """The name of the output matrix: the embedding's in a file where they are one."""
    return OUTPUT if OUTPUT in header.by_name else EMBEDDING


def quantized_tensors(header: GgufHeader) -> list[Tensor]:
    """The tensors that hold blocks: neither floating point nor integers."""
    return [t for t in header.tensors if t.type not in (*FLOAT_TYPES, *_INTEGER_TYPES)]


def _size(path: Path) -> int:
    if not path.is_file():
        why = "is no regular file" if path.exists() else "is not there"
        raise GgufError(f"{path} {why}.", hint="Give the path of a .gguf file.")
    size = path.stat().st_size
    if size == 0:
        raise GgufError(f"{path} is empty.", hint=HINT)
    return size


def _require_whole(header: GgufHeader) -> None:
    end = max((t.offset + t.n_bytes for t in header.tensors), default=0)
    if header.size_bytes < end:
        message = f"{header.path} is truncated: it has {header.size_bytes:,} bytes, its tensors need {end:,}."
        raise GgufError(message, hint=HINT)


def _check_magic(path: Path, data: mmap.mmap) -> int:
    if data[:4] != MAGIC:
        raise GgufError(f"{path} is not a GGUF: it does not start with GGUF.", hint=HINT)
    (version,) = struct.unpack_from("<I", data, 4)
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


_NEWER = {42: ("Q2_0", 64, 18)}
"""Types of the pinned llama.cpp that a release of the `gguf` package may lack: number -> name, elements and bytes of
a block. Source: `ggml/include/ggml.h`, `gguf-py/gguf/constants.py`."""


@lru_cache(maxsize=64)
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
