"""What an importance matrix says of each column, as llama-quantize weighs by it.

Source: `load_imatrix` in `tools/quantize/quantize.cpp`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from ggufkit.llama.gguf import MAGIC, GgufHeader, read_header

Importance = Mapping[str, NDArray[np.float32]]
"""By tensor: (matrices, columns), E[x²] of what the columns are multiplied with; several matrices of experts."""

_SUMS, _COUNTS = ".in_sum2", ".counts"


def read_importance(path: Path, base: GgufHeader) -> Importance:
    """Read a matrix that is known to be one, and to fit the base (`steps.imatrix.require_fits`)."""
    with path.open("rb") as file:
        entries = _of_gguf(path) if file.read(4) == MAGIC else _of_older(path)
        return {
            name: np.ascontiguousarray(values.reshape(-1, base.by_name[name].shape[0]))
            for name, values in entries
            if name in base.by_name
        }


def dataset(path: Path) -> str:
    """The text that an importance matrix says it was computed on; "" where its format has no place for that."""
    with path.open("rb") as file:
        if file.read(4) != MAGIC:
            return ""
    names = read_header(path).metadata.get("imatrix.datasets")
    return str(names[0]) if isinstance(names, list) and names else ""


def _of_gguf(path: Path) -> Iterator[tuple[str, NDArray[np.float32]]]:
    header = read_header(path)
    with path.open("rb") as file:
        for tensor in header.tensors:
            if tensor.name.endswith(_SUMS):
                name = tensor.name.removesuffix(_SUMS)
                counts = _floats(file, header, name + _COUNTS)
                sums = _floats(file, header, tensor.name).reshape(len(counts), -1)
                seen = counts[:, None] > 0
                yield name, np.where(seen, sums / np.where(seen, counts[:, None], 1), np.float32(1))


def _of_older(path: Path) -> Iterator[tuple[str, NDArray[np.float32]]]:
    with path.open("rb") as file:
        for _ in range(_int(file)):
            name = file.read(_int(file)).decode()
            n_calls, n_values = _int(file), _int(file)
            yield name, np.frombuffer(file.read(4 * n_values), "<f4") / np.float32(max(n_calls, 1))


def _floats(file: BinaryIO, header: GgufHeader, name: str) -> NDArray[np.float32]:
    tensor = header.by_name[name]
    file.seek(tensor.offset)
    return np.frombuffer(file.read(4 * tensor.n_elements), "<f4")


def _int(file: BinaryIO) -> int:
    (number,) = struct.unpack("<i", file.read(4))
    return int(number)
