"""A checkpoint whose matrices keep fewer bits of their mantissa."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

MANTISSA = 23  # bits of a float32


def round_matrices(source: Path, output: Path, bits: int) -> int:
    """Write a checkpoint to `output`, a directory that is there; returns how many matrices were rounded."""
    rounded = 0
    for file in source.iterdir():
        if file.suffix == ".safetensors":
            tensors = load_file(file)
            matrices = [name for name, tensor in tensors.items() if tensor.ndim == 2]
            rounded += len(matrices)
            kept = {name: keep(tensors[name], bits) for name in matrices}
            save_file(tensors | kept, output / file.name, metadata={"format": "pt"})
        elif file.is_file():
            shutil.copyfile(file, output / file.name)
    return rounded


def keep(weights: torch.Tensor, bits: int) -> torch.Tensor:
    """The weights with so many bits of mantissa, rounded to nearest, in the type that they have."""
    dropped = MANTISSA - bits
    raw = weights.float().view(torch.int32)
    kept = ((raw + (1 << (dropped - 1))) >> dropped) << dropped
    return kept.view(torch.float32).to(weights.dtype)
