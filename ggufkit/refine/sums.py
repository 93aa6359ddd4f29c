"""Sums over tokens as torch does them, on any device, and what layers multiply there."""

from __future__ import annotations

import torch

from ggufkit.layers.moments import add_gram


class TorchSums:
    """That part of `kernels.Kernels`."""

    @property
    def operands(self) -> torch.dtype:
        """As they are."""
        return torch.float32

    def add_gram(self, sums: torch.Tensor, x: torch.Tensor) -> None:
        """Add xᵀ x for x (tokens, n) to `sums` (n, n), on and right of the diagonal."""
        add_gram(sums, x)

    def add_products(self, sums: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> None:
        """Add xᵀ y for x (tokens, n) and y (tokens, m) to `sums` (n, m)."""
        sums.addmm_(x.T, y)
