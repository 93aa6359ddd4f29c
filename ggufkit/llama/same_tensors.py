"""Whether two GGUFs hold the same tensors, whatever their metadata says of how they were made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import BinaryIO

from ggufkit.core.records import Tensor
from ggufkit.llama.gguf import GgufHeader

_START = 1 << 14
_BLOCK = 1 << 22


def same_tensors(one: GgufHeader, other: GgufHeader) -> bool:
    """Whether all tensors of two files agree: names, shapes, types and every byte.

    The start of every tensor is looked at first: of files that differ hardly more is read.
    """
    if [kind(t) for t in one.tensors] != [kind(t) for t in other.tensors]:
        return False
    return _agree(one, other, _START) and _agree(one, other)


def kind(tensor: Tensor) -> tuple[str, Sequence[int], str]:
    """What a tensor is besides its values: name, shape and type."""
    return tensor.name, tensor.shape, tensor.type


def _agree(a: GgufHeader, b: GgufHeader, most: int | None = None) -> bool:
    """Whether all tensors begin alike, by so many bytes; None for all of them."""
    for mine, yours in zip(a.tensors, b.tensors, strict=True):
        with a.file_of(mine).open("rb") as first, b.file_of(yours).open("rb") as second:
            if not same_bytes(first, mine, second, yours, most):
                return False
    return True


def same_bytes(first: BinaryIO, mine: Tensor, second: BinaryIO, yours: Tensor, most: int | None = None) -> bool:
    """Whether two tensors of as many bytes begin alike, by so many of them; None for all."""
    first.seek(mine.offset)
    second.seek(yours.offset)
    left = mine.n_bytes if most is None else min(most, mine.n_bytes)
    while left > 0:
        n_bytes = min(_BLOCK, left)
        if first.read(n_bytes) != second.read(n_bytes):
            return False
        left -= n_bytes
    return True
