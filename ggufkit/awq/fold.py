"""What folding scales does to a checkpoint's tensors: pure functions of tensors and scales."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

from ggufkit.awq.archs import Divide, Fold

Scales = Mapping[str, torch.Tensor]
"""Scales by the module whose output they divide: (channels,) float32, all positive."""


@dataclass(frozen=True)
class Edit:
    """One change of one tensor: columns multiplied (`divide` is None), or a source divided."""

    scales: torch.Tensor
    divide: Divide | None = None

    def apply(self, weight: torch.Tensor) -> torch.Tensor:
        """The changed tensor. `weight` is (out, in), or (out,) for a norm or a bias."""
        if self.divide is None:
            return weight * self.scales
        if self.divide is Divide.NORM:
            return weight / self.scales
        if self.divide is Divide.NORM_PLUS_ONE:
            return (1 + weight) / self.scales - 1
        changed = weight.clone()
        rows = self.scales if weight.dim() == 1 else self.scales[:, None]
        changed[-len(self.scales) :] /= rows
        return changed


@dataclass(frozen=True)
class Heads:
    """A layer's query heads and KV heads; query heads share KV heads in groups."""

    query: int
    kv: int

    def spread(self, channels: torch.Tensor) -> torch.Tensor:
        """A value per KV channel (kv · head,) -> one per query channel (query · head,)."""
        return channels.view(self.kv, -1).repeat_interleave(self.query // self.kv, 0).flatten()

    def gather(self, channels: torch.Tensor) -> torch.Tensor:
        """A value per query channel -> the mean over the query heads that share a KV channel."""
        return channels.view(self.kv, self.query // self.kv, -1).mean(1).flatten()


def edits(folds: Iterable[Fold], scales: Scales, heads: Heads) -> dict[str, list[Edit]]:
    """The changes that a layer's folds make, by tensor name within the layer.

    Args:
        scales: by `Fold.source`; a fold without scales changes nothing.
    """
    found: dict[str, list[Edit]] = {}
    for fold in folds:
        vector = scales.get(fold.source)
        if vector is None:
            continue
        for part in ("weight", "bias"):
            found.setdefault(f"{fold.source}.{part}", []).append(Edit(vector, fold.divide))
        columns = Edit(column_scales(fold, vector, heads))
        for target in fold.targets:
            found.setdefault(f"{target}.weight", []).append(columns)
    return found


def edit(weight: torch.Tensor, changes: Iterable[Edit]) -> torch.Tensor:
    """A tensor after its edits."""
    for change in changes:
        weight = change.apply(weight)
    return weight


def column_scales(fold: Fold, scales: torch.Tensor, heads: Heads) -> torch.Tensor:
    """The multipliers of the targets' columns: the scales, once for each query head where heads share them."""
    return heads.spread(scales) if fold.per_kv_channel else scales


def settle(scales: torch.Tensor, weight: torch.Tensor, divide: Divide, dtype: torch.dtype) -> torch.Tensor:
    """Move scales by less than a rounding step, so that a norm divided by them is exact in `dtype`.

    The norm's rounding would otherwise change every token alike; the linears' roundings average out.
    """
    if divide is Divide.LAST_ROWS or dtype is torch.float32:
        return scales
    one = 1.0 if divide is Divide.NORM_PLUS_ONE else 0.0
    held = one + Edit(scales, divide).apply(weight).to(dtype).to(torch.float32)
    moved = (one + weight) / held
    usable = torch.isfinite(moved) & (moved / scales - 1).abs().lt(0.02)
    return torch.where(usable, moved, scales)
