"""How far each tensor of a file is from the same tensor of another: streaming, a block of rows at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from ggufkit.core.errors import GgufError
from ggufkit.core.records import Tensor
from ggufkit.llama.gguf import GgufHeader

_BLOCK_ELEMENTS = 1 << 20


@dataclass(frozen=True)
class TensorError:
    """One tensor: its type and the other one's, and ‖a − b‖ / ‖b‖ over all elements (Frobenius norm).

    `relative_error` is None for a type that cannot be dequantized here, `max_error` is the largest |a − b|.
    """

    name: str
    type: str
    reference_type: str
    n_elements: int
    relative_error: float | None
    max_error: float | None


def compare_tensors(
    file: GgufHeader, reference: GgufHeader, on_progress: Callable[[int, int], None] | None = None
) -> list[TensorError]:
    """Errors of all tensors, the worst first; those that cannot be computed last.

    Args:
        on_progress: called with tensors done and tensors in all.

    Raises:
        GgufError: the files do not hold the same tensors.
    """
    _require_same_tensors(file, reference)
    errors = []
    for i, tensor in enumerate(file.tensors, 1):
        other = reference.by_name[tensor.name]
        with file.file_of(tensor).open("rb") as a, reference.file_of(other).open("rb") as b:
            errors.append(_error(a, tensor, b, other))
        if on_progress is not None:
            on_progress(i, len(file.tensors))
    return sorted(errors, key=lambda e: -1.0 if e.relative_error is None else e.relative_error, reverse=True)


def by_type(errors: list[TensorError]) -> Mapping[str, float]:
    """The root mean square of the tensors' relative errors, weighted by their elements, for each type."""
    sums: dict[str, tuple[float, int]] = {}
    for e in errors:
        if e.relative_error is not None:
            total, count = sums.get(e.type, (0.0, 0))
            sums[e.type] = (total + e.relative_error**2 * e.n_elements, count + e.n_elements)
    worst_first = sorted(sums.items(), key=lambda item: -item[1][0] / item[1][1])
    return {kind: math.sqrt(total / count) for kind, (total, count) in worst_first}


def _require_same_tensors(file: GgufHeader, reference: GgufHeader) -> None:
    ours = {t.name: t.shape for t in file.tensors}
    theirs = {t.name: t.shape for t in reference.tensors}
    if ours != theirs:
        name = sorted(n for n in {*ours, *theirs} if ours.get(n) != theirs.get(n))[0]
        raise GgufError(
            f"{file.path} and {reference.path} are not the same model: {name} is {ours.get(name, 'missing')} "
            f"in the one, {theirs.get(name, 'missing')} in the other.",
            hint="Give the high-precision file that this one was made from with --against.",
        )


def _error(a: BinaryIO, tensor: Tensor, b: BinaryIO, reference: Tensor) -> TensorError:
    squared, norm, largest = 0.0, 0.0, 0.0
    try:
        for ours, theirs in zip(_blocks(a, tensor), _blocks(b, reference), strict=True):
            difference = ours - theirs
            squared += float(np.vdot(difference, difference))
            norm += float(np.vdot(theirs, theirs))
            largest = max(largest, float(np.abs(difference).max(initial=0.0)))
    except NotImplementedError:
        return TensorError(tensor.name, tensor.type, reference.type, tensor.n_elements, None, None)
    relative = math.sqrt(squared / norm) if norm else math.sqrt(squared)
    return TensorError(tensor.name, tensor.type, reference.type, tensor.n_elements, relative, largest)


def _blocks(file: BinaryIO, tensor: Tensor) -> Iterator[NDArray[np.float64]]:
    """Blocks of whole rows, dequantized."""
    from gguf.constants import GGMLQuantizationType
    from gguf.quants import dequantize

    if tensor.type not in GGMLQuantizationType.__members__:
        raise NotImplementedError(tensor.type)
    kind, width = GGMLQuantizationType[tensor.type], max(1, tensor.shape[0])
    n_rows = tensor.n_elements // width
    row_bytes, step = tensor.n_bytes // max(1, n_rows), max(1, _BLOCK_ELEMENTS // width)
    for start in range(0, n_rows, step):
        rows = min(step, n_rows - start)
        file.seek(tensor.offset + start * row_bytes)
        raw = np.frombuffer(file.read(rows * row_bytes), np.uint8)
        yield dequantize(raw.reshape(rows, row_bytes), kind).astype(np.float64, copy=False)
