"""What a fold scales: linears with their weights, and the second moments of their inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from ggufkit.awq.archs import Fold
from ggufkit.layers import Linear, Moments


@dataclass(frozen=True)
class Target:
    """A linear that a fold scales.

    Args:
        linear, weight: which it is, and its weight (out, in).
        gram: sum of x xᵀ over its inputs (in, in), or of x² (in,) where that is all there is.
    """

    linear: Linear
    weight: torch.Tensor
    gram: torch.Tensor

    @property
    def power(self) -> torch.Tensor:
        """Sum of x² over the inputs, (in,)."""
        return self.gram.diagonal() if self.gram.dim() == 2 else self.gram

    @property
    def outlier(self) -> float | None:
        """The power of the largest channel over that of the median one; None if that one is dead."""
        largest, median = float(self.power.max()), float(self.power.median())
        return largest / median if median > 0 else None

    def output_power(self, weight: torch.Tensor) -> float:
        """tr(W H Wᵀ): the sum of squares of the outputs that (rows, in) weights make."""
        rows = weight.to(self.gram.device)
        made = rows @ self.gram if self.gram.dim() == 2 else rows * self.gram
        return float((made * rows).sum(dtype=torch.float64))


def targets_of(
    fold: Fold, weights: Mapping[str, torch.Tensor], linears: Sequence[Linear], moments: Mapping[str, Moments]
) -> list[Target]:
    """The targets of a fold that become matrices and whose input was seen at least once."""
    seen = [x for x in linears if x.module in fold.targets and moments[x.input].count]
    return [Target(x, weights[x.module], moments[x.input].total()) for x in seen]


@dataclass(frozen=True)
class Rows:
    """How much of a tensor is looked at: about so many weights in evenly spaced rows, which are rounded independently."""

    n_weights: int
    fewest: int

    def of(self, weight: torch.Tensor) -> torch.Tensor:
        """The rows of a weight (out, in)."""
        wanted = max(self.fewest, self.n_weights // weight.shape[1])
        if len(weight) <= wanted:
            return weight
        chosen = torch.linspace(0, len(weight) - 1, wanted, device=weight.device).round().long()
        return weight[chosen]
