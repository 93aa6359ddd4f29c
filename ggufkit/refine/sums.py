"""Sums over tokens as torch does them, on any device."""

from __future__ import annotations

import torch

from ggufkit.layers.moments import add_gram


class TorchSums:
    """That part of `kernels.Kernels`."""

    def add_gram(self, sums: torch.Tensor, x: torch.Tensor) -> None:
        """Add xᵀ x for x (tokens, n) to `sums` (n, n), on and right of the diagonal."""
        add_gram(sums, x)

    def add_products(self, sums: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> None:
        """Add xᵀ y for x (tokens, n) and y (tokens, m) to `sums` (n, m)."""
        sums.addmm_(x.T, y)
