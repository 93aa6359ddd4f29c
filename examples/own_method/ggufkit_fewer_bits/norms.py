"""A GGUF whose norms are evener."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from gguf import GGUFReader


def draw_to_mean(source: Path, output: Path, strength: float) -> int:
    """Write `source` to `output` with each norm drawn towards its mean; returns how many there are."""
    shutil.copyfile(source, output)
    norms = [t for t in GGUFReader(output, "r+").tensors if t.name.endswith("_norm.weight")]
    for norm in norms:
        weights = norm.data.view(np.float32)
        weights += strength * (weights.mean() - weights)
    return len(norms)
