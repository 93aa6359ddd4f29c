"""What a GGUF's header says: metadata, tensors, types, bits per weight; of one in parts, what all of them say."""

from __future__ import annotations

import shlex
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ggufkit.core.errors import GgufError, InputError
from ggufkit.core.hashing import sha256_file
from ggufkit.core.inputs import Input
from ggufkit.core.manifest import read_manifest
from ggufkit.core.part_names import part_name
from ggufkit.core.progress import Reporter
from ggufkit.core.records import GgufFile, Tensor
from ggufkit.llama import part_set, whole
from ggufkit.llama.ggml_types import ggml_type, ggml_type_by_name
from ggufkit.llama.gguf_header import GgufHeader, next_start, read_own_header
from ggufkit.llama.gguf_reader import MAGIC

__all__ = [
    "FLOAT_TYPES", "MAGIC", "GgufHeader", "PartedGguf", "as_input", "as_one", "carried_tensors", "dominant_type",
    "ggml_type", "ggml_type_by_name", "gguf_sha256", "headers_of", "named_type", "quantized_tensors", "read_gguf",
    "read_header", "summarize",
]  # fmt: skip

OUTPUT, EMBEDDING = "output.weight", "token_embd.weight"
_CARRIED = ("MXFP4", "NVFP4")
FLOAT_TYPES = ("F32", "F16", "BF16", "F64")
_INTEGER_TYPES = ("I8", "I16", "I32", "I64")
_BESIDE_A_MODEL = {
    "adapter": "a LoRA adapter",
    "mmproj": "the part of one that reads images or sound",
    "imatrix": "an importance matrix",
}
"""What `general.type` says of files that no text is computed with alone."""


@dataclass(frozen=True)
class PartedGguf(GgufFile):
    """A GGUF in parts: `path` is the first of them, `sha256` that of the whole file that they make."""

    def as_input(self) -> Input:
        """The parts as a step reads them."""
        return as_input(self.path, self.sha256 or gguf_sha256(self.path))


def read_header(path: Path, *, check_size: bool = True) -> GgufHeader:
    """Read the header of a GGUF; of one in parts, of which any may be given, that of all of them.

    Args:
        check_size: require that the files are as long as their tensors say.

    Raises:
        GgufError: not a GGUF, big-endian, damaged, or truncated; or a part is missing, or of another file.
        InputError: it is a part that is not called so.
    """
    headers = headers_of(path, check_size=check_size)
    if len(headers) == 1:
        return headers[0]
    part_set.require_set(headers)
    return as_one(headers)


def headers_of(path: Path, *, check_size: bool = True) -> list[GgufHeader]:
    """The headers of all files of a GGUF, of which any may be given; one for a file of its own.

    Raises:
        GgufError, InputError: as `read_header`; whether all are of one file is not looked at.
    """
    own = read_own_header(path, check_size=check_size)
    if own.n_parts == 1:
        return [own]
    named = part_name(path)
    if named is None or named.count != own.n_parts or named.count > part_set.MOST_PARTS:
        _refuse_joined(own)
        message = f"{path} is one of {own.n_parts} parts of a split GGUF, and not called so."
        raise InputError(message, hint="Parts are called NAME-00001-of-00003.gguf; give one of them.")
    siblings = [path.with_name(name) for name in named.siblings()]
    missing = [number for number, file in enumerate(siblings, 1) if not file.is_file()]
    if missing:
        message = f"{siblings[missing[0] - 1]} is not there: part {missing[0]} of {named.count}."
        raise GgufError(message, hint="All parts of a GGUF lie beside each other: get it, too.")
    headers = [read_own_header(file, check_size=check_size) for file in siblings]
    for header in headers:
        _refuse_joined(header)
    return headers


def as_one(headers: Sequence[GgufHeader]) -> GgufHeader:
    """The header of a GGUF in parts, from those of all of them, in order."""
    tensors = tuple(tensor for header in headers for tensor in header.tensors)
    n_bytes = sum(header.size_bytes for header in headers)
    return replace(headers[0], tensors=tensors, size_bytes=n_bytes, parts=tuple(headers))


def _refuse_joined(header: GgufHeader) -> None:
    """Refuse parts that were joined end to end. Raises GgufError."""
    if next_start(header) is not None:
        message = (
            f"{header.path} is the parts of a split GGUF joined end to end: llama.cpp would read the first only."
        )
        raise GgufError(
            message, hint=f"Join them as they should be: ggufkit merge {shlex.quote(str(header.path))}"
        )


def gguf_sha256(path: Path, reporter: Reporter | None = None, stop: threading.Event | None = None) -> str:
    """The hex SHA-256 of a GGUF; of one in parts that of the whole file that they make, however they are cut.

    Raises:
        GgufError: as `read_header`; or a part is not the one that was written with the others.
    """
    if part_name(path) is None or not (header := read_header(path)).parts:
        return sha256_file(path, reporter, stop)
    part_set.require_recorded(header.files)
    made = read_manifest(header.path)
    recorded = made is not None and all(file.name in made.output for file in header.files)
    return str(made.output["sha256"]) if made is not None and recorded else whole.digest(header, reporter, stop)


def as_input(path: Path, sha256: str) -> Input:
    """A GGUF of that hash as a step reads it, whole or in parts."""
    files = read_header(path).files if part_name(path) is not None else [path]
    if len(files) == 1:
        return Input(path, sha256)
    return Input(path, sha256, lambda _first: files, gguf_sha256)


def read_gguf(path: Path, sha256: str | None = None) -> GgufFile:
    """Read a GGUF into a record; of one in parts, of which any may be given, its path is that of the first.

    Raises:
        GgufError: as `read_header` does, and where it is no whole model, or a part is not the one that was written with
            the others.
    """
    header = read_header(path)
    if header.parts:
        part_set.require_recorded(header.files)
    kind = "mmproj" if header.architecture == "clip" else str(header.metadata.get("general.type"))
    if (what := _BESIDE_A_MODEL.get(kind)) is not None:
        raise GgufError(f"{path} is no model, but {what}.", hint="Give the GGUF of the model that it belongs to.")
    if not header.tensors:
        raise GgufError(f"{path} holds no weights, but a vocabulary at most.", hint="Give the model's own GGUF.")
    return summarize(header, sha256)


def summarize(header: GgufHeader, sha256: str | None = None) -> GgufFile:
    """The record of a GGUF whose header has been read."""
    types = Counter(tensor.type for tensor in header.tensors)
    kind = PartedGguf if header.parts else GgufFile
    return kind(
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
    """The type that holds most elements: F16 for a half-precision model with F32 norms, or with blocks carried over."""
    elements: Counter[str] = Counter()
    carried = {tensor.name for tensor in carried_tensors(header)}
    for tensor in header.tensors:
        if tensor.name not in carried:
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


def carried_tensors(header: GgufHeader) -> list[Tensor]:
    """The tensors whose blocks a converted file has from its checkpoint, bit for bit: gpt-oss is published in MXFP4.

    What llama-quantize makes of these types has other blocks besides.
    """
    found, embedding = quantized_tensors(header), header.by_name.get("token_embd.weight")
    is_converted = embedding is not None and embedding.type in FLOAT_TYPES
    return found if is_converted and {tensor.type for tensor in found} <= set(_CARRIED) else []


def quantized_tensors(header: GgufHeader) -> list[Tensor]:
    """The tensors that hold blocks: neither floating point nor integers."""
    return [t for t in header.tensors if t.type not in (*FLOAT_TYPES, *_INTEGER_TYPES)]
