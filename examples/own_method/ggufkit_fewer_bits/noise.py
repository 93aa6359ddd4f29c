"""How much of a file's weights is noise, against those that it was made from."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from gguf import GGUFReader
from gguf.quants import dequantize


def sqnr(gguf: Path, base: Path) -> float:
    """Signal to noise over all weights, in dB; a file without any noise has 200."""
    ours = {tensor.name: tensor for tensor in GGUFReader(gguf).tensors}
    signal = noise = 0.0
    for tensor in GGUFReader(base).tensors:
        original = dequantize(tensor.data, tensor.tensor_type).astype(np.float64)
        other = dequantize(ours[tensor.name].data, ours[tensor.name].tensor_type)
        signal += float((original**2).sum())
        noise += float(((original - other) ** 2).sum())
    return min(10 * math.log10(signal / noise), 200.0) if noise else 200.0
