"""Tensors of a base in other types, by the real quantizer: whole ones for files, some rows to see what is lost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import BinaryIO

import numpy as np

from ggufkit.core.concurrency import worker_pool
from ggufkit.core.records import Tensor
from ggufkit.llama.gguf import GgufHeader, ggml_type_by_name
from ggufkit.llama.importance import Importance
from ggufkit.llama.libggml import Floats, LibGgml

_CHUNK = 1 << 20
_SAMPLE = 1 << 18


@dataclass(frozen=True)
class Rounder:
    """The real quantizer over a base's tensors.

    Args:
        importance: weighs the columns; where a tensor has none, all weigh the same.
        weigh: whether the quantizer knows it, too. Where not, it weighs the errors alone.
    """

    base: GgufHeader
    library: LibGgml
    importance: Importance
    weigh: bool = True
    threads: int = 1

    def n_bytes(self, tensor: Tensor, type_name: str) -> int:
        """The size of a tensor in a type."""
        block, block_bytes = ggml_type_by_name(type_name)
        return tensor.n_elements // block * block_bytes

    def write(self, tensor: Tensor, type_name: str, to: BinaryIO) -> None:
        """Write a tensor's data in a type, some rows at a time."""
        with self.base.file_of(tensor).open("rb") as source, worker_pool(self.threads) as pool:
            jobs = [pool.submit(partial(self._blocks, tensor, type_name, *rows)) for rows in _read(source, tensor)]
            for job in jobs:
                to.write(job.result())

    def _blocks(self, tensor: Tensor, type_name: str, matrix: int, raw: bytes) -> bytes:
        if type_name == tensor.type:
            return raw
        weights = self._floats(tensor, raw)
        columns = self._columns(tensor, matrix) if self.weigh else None
        return self.library.quantize(weights, type_name, columns).tobytes()

    def lost(self, tensor: Tensor, types: Sequence[str]) -> dict[str, float]:
        """What a tensor loses in each type: the sum over its weights of E[x²] · error².

        Of large tensors some rows are looked at, spread evenly.
        """
        lost, n_rows = dict.fromkeys(types, 0.0), 0
        for matrix, rows in self._sample(tensor):
            columns, n_rows = self._columns(tensor, matrix), n_rows + len(rows)
            weights = np.ones(rows.shape[1], np.float32) if columns is None else columns
            for name in types:
                rounded = self.library.rounded(rows, name, columns if self.weigh else None)
                lost[name] += float((weights * (rounded - rows) ** 2).sum(dtype=np.float64))
        share = tensor.n_elements / (n_rows * tensor.shape[0])
        return {name: total * share for name, total in lost.items()}

    def _sample(self, tensor: Tensor) -> Iterator[tuple[int, Floats]]:
        """Some rows of each matrix, with the number of the matrix."""
        n_columns, n_matrices = tensor.shape[0], prod(tensor.shape[2:])
        n_rows = tensor.n_elements // n_columns // n_matrices
        wanted = min(n_rows, max(8, _SAMPLE // n_columns // n_matrices))
        at = np.unique(np.linspace(0, n_rows - 1, wanted).astype(np.int64))
        row_bytes = tensor.n_bytes // (n_rows * n_matrices)
        data = np.memmap(self.base.file_of(tensor), np.uint8, "r", tensor.offset, (n_matrices, n_rows, row_bytes))
        for matrix in range(n_matrices):
            yield matrix, self._floats(tensor, np.ascontiguousarray(data[matrix, at]).tobytes())

    def _floats(self, tensor: Tensor, raw: bytes) -> Floats:
        block, block_bytes = ggml_type_by_name(tensor.type)
        blocks = np.frombuffer(raw, np.uint8).reshape(-1, tensor.shape[0] // block * block_bytes)
        return self.library.dequantize(blocks, tensor.type, tensor.shape[0])

    def _columns(self, tensor: Tensor, matrix: int) -> Floats | None:
        found = self.importance.get(tensor.name)
        return None if found is None else found[min(matrix, len(found) - 1)]


@dataclass(frozen=True)
class RefinedRounder(Rounder):
    """The same with what a refinement made of some tensors, where they have the type that is wanted.

    Args:
        refined: a file of the base's tensors.
        names: those that a refinement changes.
    """

    refined: GgufHeader | None = None
    names: frozenset[str] = frozenset()

    def write(self, tensor: Tensor, type_name: str, to: BinaryIO) -> None:
        """Write a tensor's data in a type, as it is in the refined file if it has that type there."""
        found = self.refined.by_name[tensor.name] if self.refined and tensor.name in self.names else None
        if self.refined is None or found is None or found.type != type_name:
            super().write(tensor, type_name, to)
            return
        with self.refined.file_of(found).open("rb") as source:
            source.seek(found.offset)
            to.write(source.read(found.n_bytes))


def _read(source: BinaryIO, tensor: Tensor) -> Iterator[tuple[int, bytes]]:
    """Whole rows of one matrix at a time, with its number."""
    n_columns, n_matrices = tensor.shape[0], prod(tensor.shape[2:])
    n_rows = tensor.n_elements // n_columns // n_matrices
    row_bytes, step = tensor.n_bytes // (n_rows * n_matrices), max(1, _CHUNK // n_columns)
    for matrix in range(n_matrices):
        for start in range(0, n_rows, step):
            source.seek(tensor.offset + (matrix * n_rows + start) * row_bytes)
            yield matrix, source.read(min(step, n_rows - start) * row_bytes)
