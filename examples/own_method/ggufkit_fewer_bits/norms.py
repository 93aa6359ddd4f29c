"""A GGUF whose norms are smaller."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from gguf import GGUFReader


def shrink(source: Path, output: Path, strength: float) -> int:
    """Write `source` to `output` with its norms made smaller; returns how many there are."""
    shutil.copyfile(source, output)
    norms = [t for t in GGUFReader(output, "r+").tensors if t.name.endswith("_norm.weight")]
    for norm in norms:
        norm.data.view(np.float32)[:] *= 1 - strength
    return len(norms)
