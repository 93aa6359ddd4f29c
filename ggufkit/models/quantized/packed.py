"""AWQ's and GPTQ's packed matrices -> weights in float32: what transformers has no kernels for on every machine.

Sources: AutoAWQ, `awq/modules/linear/gemm.py`; GPTQModel, `gptqmodel/nn_modules/qlinear`. A word of 32 bits holds 32/bits
values, the first of them in its lowest bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ggufkit.core.errors import CheckpointError

PARTS = ("qweight", "qzeros", "scales", "g_idx")
"""What tensors a packed matrix consists of; GPTQ alone has the last."""
_WORD = 32
_AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""Which of eight columns AWQ puts where in a word."""


@dataclass(frozen=True)
class Packing:
    """How matrices are packed: by "awq" or "gptq", with so many bits.

    Args:
        zero_offset: what is added to the zero points as they are stored: 1 for GPTQ's first format.
    """

    method: str
    bits: int = 4
    zero_offset: int = 0

    @classmethod
    def of(cls, settings: Mapping[str, Any], method: str) -> Packing:
        """What config.json says of it."""
        is_first = method == "gptq" and settings.get("checkpoint_format", "gptq") == "gptq"
        return cls(method, int(settings.get("bits", settings.get("w_bit", 4))), int(is_first))


def weight(parts: Mapping[str, Tensor], how: Packing) -> Tensor:
    """The matrix of shape (outputs, inputs), in float32.

    Args:
        parts: its tensors, by the names in `PARTS`.

    Raises:
        CheckpointError: a tensor is missing, or of a size that the others do not fit.
    """
    if lacking := [name for name in PARTS[:3] if name not in parts]:
        raise CheckpointError(f"it has no {lacking[0]}")
    codes = _awq_codes(parts["qweight"]) if how.method == "awq" else down(parts["qweight"], how.bits)
    zeros = _awq_codes(parts["qzeros"]) if how.method == "awq" else across(_zeros(parts["qzeros"], how), how.bits)
    scales, n_inputs = parts["scales"].float(), codes.shape[0]
    if scales.shape != zeros.shape or scales.shape[1] != codes.shape[1] or n_inputs % len(scales):
        raise CheckpointError(f"its scales are {tuple(scales.shape)}, its codes {tuple(codes.shape)}")
    groups = parts.get("g_idx", torch.arange(n_inputs) // (n_inputs // len(scales))).long()
    if groups.shape != (n_inputs,) or int(groups.max()) >= len(scales) or int(groups.min()) < 0:
        raise CheckpointError("its g_idx names groups that have no scales")
    return ((codes - zeros[groups]) * scales[groups]).T.contiguous()


def _zeros(words: Tensor, how: Packing) -> Tensor:
    """GPTQ's packed zero points without what its first format takes off: of whole words, so that 0 borrows of the next."""
    return words + how.zero_offset * sum(1 << shift for shift in range(0, _WORD, how.bits))


def _shifts(bits: int) -> Tensor:
    return torch.arange(0, _WORD, bits, dtype=torch.int32)


def across(words: Tensor, bits: int) -> Tensor:
    """Values that lie one beside the other: (rows, words) -> (rows, words · 32/bits)."""
    return ((words[:, :, None] >> _shifts(bits)) & ((1 << bits) - 1)).reshape(len(words), -1).float()


def down(words: Tensor, bits: int) -> Tensor:
    """Values that lie one below the other: (words, columns) -> (words · 32/bits, columns)."""
    return ((words[:, None, :] >> _shifts(bits)[:, None]) & ((1 << bits) - 1)).reshape(-1, words.shape[1]).float()


def _awq_codes(words: Tensor) -> Tensor:
    """AWQ's eight values of a word, in the order of their columns."""
    places = torch.argsort(torch.tensor(_AWQ_ORDER))
    values = across(words, 4)
    return values.reshape(len(words), -1, len(_AWQ_ORDER))[:, :, places].reshape(len(words), -1)
