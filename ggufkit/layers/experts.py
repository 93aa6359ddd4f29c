"""Experts as single linears: transformers 5 stacks them into one tensor, which no hook can look into."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class SplitExperts(nn.ModuleList):
    """The experts of a Mixture of Experts as a list of gated MLPs, named as checkpoints name them.

    Stands in for transformers' stacked experts: same call, same result.
    """

    def __init__(self, n_experts: int, width: int, inner: int, act_fn: Any) -> None:
        super().__init__(_Expert(width, inner, act_fn) for _ in range(n_experts))

    def forward(self, hidden: torch.Tensor, chosen: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
        """Sum the chosen experts' outputs.

        Args:
            hidden: (tokens, width).
            chosen, shares: (tokens, k), indices of experts and their weights.
        """
        result = torch.zeros_like(hidden)
        for number in sorted(set(chosen.flatten().tolist())):
            token, rank = torch.where(chosen == number)
            output = self[number](hidden[token]) * shares[token, rank, None]
            result.index_add_(0, token, output.to(result.dtype))
        return result


class _Expert(nn.Module):
    def __init__(self, width: int, inner: int, act_fn: Any) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(width, inner, bias=False)
        self.up_proj = nn.Linear(width, inner, bias=False)
        self.down_proj = nn.Linear(inner, width, bias=False)
        self.act_fn = act_fn

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.down_proj(self.act_fn(self.gate_proj(hidden)) * self.up_proj(hidden))
        return output


def split_experts(layer: nn.Module) -> None:
    """Replace stacked experts within `layer` by `SplitExperts` of the same shapes, on the meta device."""
    for path, module in list(layer.named_modules()):
        stacked = getattr(module, "gate_up_proj", None)
        if isinstance(stacked, nn.Parameter) and stacked.dim() == 3:
            n_experts, twice_inner, width = stacked.shape
            with torch.device("meta"):
                experts = SplitExperts(n_experts, width, twice_inner // 2, module.act_fn)
            layer.set_submodule(path, experts)
