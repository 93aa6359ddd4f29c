"""The rows of a quantized GGUF and of its base, one matrix at a time from mapped files."""

from __future__ import annotations

import mmap
from pathlib import Path

import numpy as np
import torch

from ggufkit.core.errors import GgufError
from ggufkit.core.records import Tensor
from ggufkit.layers import Shards
from ggufkit.llama.gguf import (
    EMBEDDING,
    FLOAT_TYPES,
    GgufHeader,
    ggml_type_by_name,
    output_of,
    quantized_tensors,
    read_header,
)
from ggufkit.refine.codecs import CODECS, Codec
from ggufkit.refine.fields import U8

# What the output matrix is called in a checkpoint; the embedding is read whole only where it is that matrix.
_HEADS = ("lm_head.weight", "model.embed_tokens.weight")
_FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


class Pair:
    """A quantized GGUF and the high-precision one that it was made from.

    Raises:
        GgufError: a file is damaged, or the two are not of one model, or the base is itself quantized, or a type of the
            quantized one cannot be read here.
    """

    def __init__(self, quantized: Path, base: Path) -> None:
        self.quantized, self.base = read_header(quantized), read_header(base)
        self._maps = {file: _map(file) for header in (self.quantized, self.base) for file in header.files}
        for tensor in self.quantized.tensors:
            self._require_same(tensor)
        for tensor in {t.type: t for t in quantized_tensors(self.quantized)}.values():
            _require_readable(tensor, quantized)

    def _require_same(self, tensor: Tensor) -> None:
        own = self.base.by_name.get(tensor.name)
        if own is None or _sized(own) != _sized(tensor):
            message = f"{self.base.path} has no {tensor.name} of the shape it has in {self.quantized.path}."
            raise GgufError(message, hint="Give with --base the GGUF that this file was quantized from.")
        if own.type not in FLOAT_TYPES:
            message = f"{self.base.path} is quantized itself ({tensor.name} is {own.type})."
            raise GgufError(message, hint="Give the F32, F16 or BF16 file with --base.")

    def codec(self, name: str) -> Codec | None:
        """How a tensor of the quantized file is stored; None if it cannot be refined."""
        tensor = self.quantized.by_name.get(name)
        return CODECS.get(tensor.type) if tensor else None

    def raw(self, name: str, expert: int | None = None) -> U8:
        """The bytes of a matrix of the quantized file, (rows, bytes of a row)."""
        return self._rows(self.quantized, name, expert)

    def weights(self, name: str, expert: int | None = None, device: torch.device | None = None) -> torch.Tensor:
        """A matrix of the base, (rows, columns) float32 on the device."""
        stored = torch.from_numpy(np.array(self._rows(self.base, name, expert))).to(device)
        return stored.view(_FLOATS[self.base.by_name[name].type]).to(torch.float32)

    def stored(self, name: str, expert: int | None = None) -> torch.Tensor:
        """A matrix of the quantized file as llama.cpp reads it, (rows, columns) float32."""
        return _dequantize(self.raw(name, expert), self.quantized.by_name[name].type)

    def vector(self, name: str) -> torch.Tensor:
        """A float vector of the base, float32."""
        tensor = self.base.by_name[name]
        raw = np.frombuffer(self._maps[self.base.file_of(tensor)], np.uint8, tensor.n_bytes, tensor.offset)
        return _dequantize(raw, tensor.type)

    def head(self) -> torch.Tensor:
        """The output matrix of the quantized file, (vocabulary, width) float32: the embedding where they are one."""
        return self.stored(self.output)

    @property
    def output(self) -> str:
        """The output matrix's name: the embedding's where they are one."""
        return output_of(self.quantized)

    def embedding(self, ids: torch.Tensor) -> torch.Tensor:
        """Rows of the quantized file's token embedding, (ids, width) float32."""
        return _dequantize(self.raw(EMBEDDING)[ids.cpu().numpy()], self.quantized.by_name[EMBEDDING].type)

    def _rows(self, header: GgufHeader, name: str, expert: int | None = None) -> U8:
        tensor = header.by_name[name]
        view = np.frombuffer(self._maps[header.file_of(tensor)], np.uint8, tensor.n_bytes, tensor.offset)
        n_rows, n_slices = tensor.shape[1], int(np.prod(tensor.shape[2:], dtype=int))
        matrix: U8 = view.reshape(n_slices, n_rows, -1)[expert or 0]
        return matrix


class QuantizedRows(Shards):
    """A checkpoint whose token embedding and output matrix are the quantized file's."""

    def __init__(self, path: Path, pair: Pair) -> None:
        super().__init__(path)
        self._pair = pair

    def rows(self, name: str, ids: torch.Tensor) -> torch.Tensor:  # noqa: ARG002 - only the embedding is read by rows
        """Rows `ids` of the token embedding, float32."""
        return self._pair.embedding(ids)

    def read(self, name: str, device: torch.device | None = None) -> torch.Tensor:
        """One weight in float32."""
        return self._pair.head() if name in _HEADS else super().read(name, device)


def _sized(tensor: Tensor) -> tuple[int, ...]:
    """The shape without sizes of one at its end, which llama-quantize leaves out."""
    shape = tensor.shape
    while len(shape) > 1 and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def _require_readable(tensor: Tensor, path: Path) -> None:
    """What is not refined is read, too: layers after it see what it makes of their inputs."""
    _, n_bytes = ggml_type_by_name(tensor.type)
    try:
        _dequantize(np.zeros((1, n_bytes), np.uint8), tensor.type)
    except (NotImplementedError, KeyError):
        message = f"{path} has {tensor.name} as {tensor.type}, which refinement cannot read."
        raise GgufError(message, hint="Quantize it again with another type for such tensors.") from None


def _map(path: Path) -> mmap.mmap:
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _dequantize(raw: U8, type_name: str) -> torch.Tensor:
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    values = dequantize(np.ascontiguousarray(raw), GGMLQuantizationType[type_name])
    return torch.from_numpy(np.array(values, np.float32))
