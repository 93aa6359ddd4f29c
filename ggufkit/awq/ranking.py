"""Which scales are worth rounding for: a model of rounding that knows no types, on whatever device the weights are.

All of llama.cpp's types round blocks of 32 or less to levels within the block's own range. Levels that are evenly spaced,
and errors that are independent of each other, leave of a linear's output a mean squared error in proportion to

    Σ over blocks b of (Σ over rows of range(W · s in b)²) · (Σ over columns j in b of E[x_j²] / s_j²).

How many levels there are is a factor that all candidates share: one ranking serves every type.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from ggufkit.awq.targets import Target, some_rows

_BLOCK = 32
_WEIGHTS = 1 << 19


def ranked(targets: Sequence[Target], columns: Mapping[str, torch.Tensor]) -> list[str]:
    """Names of candidates by the error that they are expected to leave, least first, without the first, the identity.

    Args:
        columns: multipliers of the targets' columns, (in,), by candidate.
    """
    errors = torch.stack([_relative(target, list(columns.values())) for target in targets]).mean(0)
    names = list(columns)
    return [names[1 + i] for i in errors[1:].argsort(stable=True).tolist()]


def _relative(target: Target, columns: Sequence[torch.Tensor]) -> torch.Tensor:
    """What is expected of a target for each candidate, relative to the first: (candidates,) float64."""
    rows = some_rows(target.weight, _WEIGHTS)
    power = target.power.to(rows.device)
    errors = torch.stack([_expected(rows, power, scales.to(rows.device)) for scales in columns]).cpu()
    return torch.where(errors[0] > 0, errors / errors[0], 1.0)


def _expected(rows: torch.Tensor, power: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    low, high = (rows * scales).view(len(rows), -1, _BLOCK).aminmax(dim=-1)
    spans = (high - low).square().sum(0, dtype=torch.float64)
    return spans @ (power / scales.square()).view(-1, _BLOCK).sum(1, dtype=torch.float64)
