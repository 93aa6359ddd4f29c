"""Read single tensors of a checkpoint's safetensors files: plain reads, so that no page stays resident."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from ggufkit.core.errors import CheckpointError
from ggufkit.models.checkpoint import stored_tensors
from ggufkit.models.tensor_headers import StoredTensor

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""The dtypes that weights may have, by their names in safetensors."""

_AT_ONCE = 1 << 21
_RENAMED = (
    (re.compile(r"\.block_sparse_moe\.experts\.(\d+)\.w1\."), r".mlp.experts.\1.gate_proj."),
    (re.compile(r"\.block_sparse_moe\.experts\.(\d+)\.w2\."), r".mlp.experts.\1.down_proj."),
    (re.compile(r"\.block_sparse_moe\.experts\.(\d+)\.w3\."), r".mlp.experts.\1.up_proj."),
    (re.compile(r"\.block_sparse_moe\."), ".mlp."),
)
"""What Mixtral's checkpoints name otherwise than transformers' modules, and other architectures', are."""


def module_name(stored: str) -> str:
    """The name that a stored tensor has in the model."""
    for pattern, name in _RENAMED:
        stored = pattern.sub(name, stored)
    return stored


class Shards:
    """The tensors of a checkpoint directory by the names that they have in the model. Nothing is held open between reads.

    Raises:
        CheckpointError: no safetensors file, or one that is missing, truncated or damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.tensors: Mapping[str, StoredTensor] = {module_name(t.name): t for t in stored_tensors(path)}

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def info(self, name: str) -> StoredTensor:
        """Where a tensor is and what it is; CheckpointError if the checkpoint does not hold it."""
        try:
            return self.tensors[name]
        except KeyError:
            message = f"{self.path} has no tensor {name}."
            raise CheckpointError(message, hint="Is the checkpoint complete? Download it again.") from None

    def read(self, name: str, device: torch.device | None = None) -> torch.Tensor:
        """One weight in float32; beyond it, only a few megabytes of what is stored are in memory.

        For a GPU, what is stored is read whole, and converted there.
        """
        info = self.info(name)
        dtype = self._dtype(info)
        if device is not None and device.type != "cpu":
            stored = torch.from_numpy(np.fromfile(info.file, np.uint8, info.end - info.start, offset=info.start))
            return stored.to(device).view(dtype).to(torch.float32).view(info.shape)
        weight = torch.empty(info.n_elements)
        for start in range(0, info.n_elements, _AT_ONCE):
            part = weight[start : start + _AT_ONCE]
            size, offset = len(part) * dtype.itemsize, info.start + start * dtype.itemsize
            part.copy_(torch.from_numpy(np.fromfile(info.file, np.uint8, size, offset=offset)).view(dtype))
        return weight.reshape(info.shape)

    def rows(self, name: str, ids: torch.Tensor) -> torch.Tensor:
        """Rows `ids` of a matrix in float32."""
        info = self.info(name)
        shape = (info.shape[0], (info.end - info.start) // info.shape[0])
        mapped = np.memmap(info.file, np.uint8, "r", info.start, shape)
        return torch.from_numpy(np.asarray(mapped[ids.numpy()])).view(self._dtype(info)).to(torch.float32)

    def _dtype(self, info: StoredTensor) -> torch.dtype:
        if info.dtype in DTYPES:
            return DTYPES[info.dtype]
        message = f"{info.name} of {self.path} is stored as {info.dtype}, which is not a plain float."
        raise CheckpointError(message, hint="Start from the original checkpoint in F32, F16 or BF16.")
