"""The parts of a quantized matrix -> its weight in float32.

Sources: compressed-tensors' `compressors/pack_quantized`; bitsandbytes' `functional.py` and `nn/modules.py`;
transformers' `integrations/finegrained_fp8.py`; see `packed` for AWQ and GPTQ.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ggufkit.core.errors import CheckpointError
from ggufkit.models.quantized import packed
from ggufkit.models.quantized.matrices import Matrix, damaged, n_words, read_state, scale_shape
from ggufkit.models.quantized.method import Quantized, weights_of_groups
from ggufkit.models.quantized.packed import Packing
from ggufkit.models.tensor_headers import StoredTensor

Parts = Mapping[str, Tensor]

DTYPES = {
    "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2, "F8_E8M0": torch.float8_e8m0fnu, "I8": torch.int8, "U8": torch.uint8, "I16": torch.int16,
    "I32": torch.int32, "I64": torch.int64, "F64": torch.float64,
}  # fmt: skip
"""What parts of a matrix may be stored as."""

_INT8_MAX = 127
_CODES_OF = ("values", "codes", "state", "shape", "zeros", "groups", "qzeros", "g_idx")


def weight(matrix: Matrix, parts: Parts, how: Quantized) -> Tensor:
    """The weight of a matrix, (outputs, inputs) in float32.

    Args:
        parts: what `matrix.parts` names.

    Raises:
        CheckpointError: parts do not fit together, or hold what is no number.
    """
    for role, part in parts.items():
        if role not in _CODES_OF and not bool(torch.isfinite(part.float()).all()):
            raise damaged(matrix.name, f"{matrix.parts[role].name} holds NaN or infinite numbers")
    made = _KINDS[matrix.kind](matrix, parts, how)
    if tuple(made.shape) != matrix.shape:
        raise damaged(matrix.name, f"its parts make the shape {tuple(made.shape)}, not {matrix.shape}")
    if not bool(torch.isfinite(made).all()):
        raise damaged(matrix.name, f"{matrix.parts['values'].name} holds NaN or infinite numbers")
    return made


def unknown_dtype(matrix: Matrix, tensor: StoredTensor) -> CheckpointError:
    """The error for a part that is stored as something else."""
    return damaged(matrix.name, f"{tensor.name} is stored as {tensor.dtype}")


def _scaled(matrix: Matrix, parts: Parts, _: Quantized) -> Tensor:
    """Numbers of eight bits, less their zero point, times the scale of their block."""
    values = parts["values"].float()
    if "zeros" in parts:
        values -= _spread(matrix, parts["zeros"].float())
    return values.mul_(_spread(matrix, parts["scales"].float()))


def _spread(matrix: Matrix, of_blocks: Tensor) -> Tensor:
    """One number for each block -> one for each value."""
    shape = matrix.shape
    found = of_blocks.reshape(scale_shape(shape, matrix.blocks))
    blocks = (1,) * (len(shape) - len(matrix.blocks)) + matrix.blocks
    for dim, block in enumerate(blocks):
        if block > 1:
            found = found.repeat_interleave(block, dim).narrow(dim, 0, shape[dim])
    return found.expand(shape)


def _packed(matrix: Matrix, parts: Parts, how: Quantized) -> Tensor:
    """Integers of a few bits in words of 32, the first value in the lowest bits, less half their range."""
    n_out, n_in = matrix.shape
    words = parts["values"]
    possible = [int(w["num_bits"]) for w in weights_of_groups(how.settings)]
    bits = next(b for b in possible if n_words(n_in, b) == words.shape[1])
    half = 1 << (bits - 1)
    values = packed.across(words, bits)[:, :n_in] - half
    groups = parts["groups"].long() if "groups" in parts else None
    if "zeros" in parts:  # packed along the outputs
        zeros = packed.down(parts["zeros"], bits)[:n_out] - half
        values -= zeros[:, groups] if groups is not None else _spread(matrix, zeros)
    scales = parts["scales"].float()
    return values.mul_(scales[:, groups] if groups is not None else _spread(matrix, scales))


def _words(matrix: Matrix, parts: Parts, how: Quantized) -> Tensor:
    try:
        return packed.weight({"qweight": parts["values"], **parts}, Packing.of(how.settings, how.method))
    except CheckpointError as error:
        raise damaged(matrix.name, error.message) from None


def _rows(_: Matrix, parts: Parts, __: Quantized) -> Tensor:
    return parts["values"].float() * (parts["scales"].float() / _INT8_MAX)[:, None]


def _nibbles(matrix: Matrix, parts: Parts, _: Quantized) -> Tensor:
    """Two values a byte, the first in the higher bits: each names one of sixteen, times the largest of its block."""
    state, scales = read_state(matrix.name, matrix.parts["state"]), parts["scales"]
    if "nested scales" in parts:
        largest = parts["nested scales"].repeat_interleave(state.nested_blocksize)[: len(scales)]
        scales = parts["nested codes"][scales.long()] * largest + state.nested_offset
    held = parts["values"].flatten()
    codes = torch.stack([held >> 4, held & 15], 1).flatten()[: torch.Size(matrix.shape).numel()]
    blocks = scales.float().repeat_interleave(state.blocksize)[: len(codes)]
    return (parts["codes"].float()[codes.long()] * blocks).reshape(matrix.shape)


_KINDS: Mapping[str, Callable[[Matrix, Parts, Quantized], Tensor]] = {
    "scaled": _scaled, "packed": _packed, "words": _words, "rows": _rows, "nibbles": _nibbles,
}  # fmt: skip
