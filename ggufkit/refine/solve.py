"""The whole search for one matrix: GPTQ, coordinate descent, scales; and what the target is under refined inputs."""

from __future__ import annotations

import torch

from ggufkit.core.errors import InputError
from ggufkit.refine import kernels
from ggufkit.refine.grid import Grid, join
from ggufkit.refine.kernels import Kernels

# Shares of the mean of diag(H), added to it: for GPTQ as in the paper, for the regression on refined inputs.
_DAMPING, _RIDGE, _TINY = 0.01, 0.01, 1e-6
_ROUNDS = 2
_ROWS_AT_ONCE = {"cpu": 4096, "cuda": 32768}

_Ordered = tuple[torch.Tensor | None, torch.Tensor]


def damped(hessian: torch.Tensor, share: float, name: str) -> torch.Tensor:
    """H with `share` of its mean diagonal added; columns that are never used get a diagonal of their own.

    Raises:
        InputError: H is not finite.
    """
    if not bool(hessian.isfinite().all()):
        message = f"The second moments of {name}'s input are not finite."
        raise InputError(
            message, hint="Its activations overflow; check the checkpoint, or use other calibration text."
        )
    diagonal = hessian.diagonal()
    mean = float(diagonal.mean()) or 1.0
    return hessian + torch.diag(torch.where(diagonal > 0, share * mean, mean))


def correction(weights: torch.Tensor, hessian: torch.Tensor, wanted: torch.Tensor, name: str) -> torch.Tensor:
    """What to add to the original's weights, so that they give its output from the refined model's inputs.

    Args:
        weights: the original's, (columns, rows).
        hessian: E[x̂ x̂ᵀ] of the refined model's inputs.
        wanted: E[x̂ tᵀ], (columns, rows), with the outputs t that are wanted for them.
    """
    slope = wanted.double() - hessian.double() @ weights.double()
    factor = _cholesky(damped(hessian, _RIDGE, name).double(), name)
    return torch.cholesky_solve(slope, factor).float()


def solve(grid: Grid, target: torch.Tensor, hessian: torch.Tensor, name: str, act_order: str = "auto") -> Grid:
    """The best levels, scales and minima found for `target` (columns, rows) under H, in no row worse than those of `grid`,
    which stays as it is.

    Args:
        act_order: GPTQ's order of the columns. "on" is by falling diag(H), "off" their own; "auto" does both and
            keeps for each row the one of less error.

    Raises:
        InputError: H is not finite, or not positive definite even when damped.
    """
    orders = orders_of(hessian, grid.codec.unit, act_order)
    factors = _factors(damped(hessian, _DAMPING, name), name, orders)
    hessian = damped(hessian, _TINY, name)
    step = _ROWS_AT_ONCE.get(target.device.type, _ROWS_AT_ONCE["cpu"])
    do, parts = kernels.for_codec(target.device, grid.codec), []
    for start in range(0, grid.n_rows, step):
        rows, part = target[:, start : start + step].contiguous(), grid.rows(start, start + step)
        parts.append(_solve_rows(do, part, rows, hessian, factors))
    return join(parts)


def orders_of(hessian: torch.Tensor, unit: int, act_order: str) -> list[torch.Tensor | None]:
    """The orders of columns to try, those of a unit beside each other; None for their own."""
    orders: list[torch.Tensor | None] = [] if act_order == "on" else [None]
    if act_order != "off":
        units = hessian.diagonal().view(-1, unit).sum(1).argsort(descending=True)
        columns = torch.arange(len(hessian), device=hessian.device).view(-1, unit)
        orders.append(columns[units].flatten())
    return orders


def _factors(steady: torch.Tensor, name: str, orders: list[torch.Tensor | None]) -> list[_Ordered]:
    """The orders, each with its factor of the inverse."""
    return [
        (order, inverse_factor(steady if order is None else steady[order][:, order], name)) for order in orders
    ]


def _rounded(do: Kernels, grid: Grid, target: torch.Tensor, ordered: _Ordered) -> Grid:
    order, factor = ordered
    rounded = grid.rows(0, grid.n_rows)
    do.gptq(rounded, target, factor, order)
    return rounded


def _solve_rows(
    do: Kernels, grid: Grid, target: torch.Tensor, hessian: torch.Tensor, factors: list[_Ordered]
) -> Grid:
    best = grid.rows(0, grid.n_rows)
    for factor in factors:
        other = _rounded(do, grid, target, factor)
        best = other.where(do.error(other, target, hessian) < do.error(best, target, hessian), best)
    do.descend(best, target, hessian, 3)
    do.refit(best, target, hessian)
    do.descend(best, target, hessian, 3)
    for _ in range(_ROUNDS):
        do.search(best, target, hessian)
        do.descend(best, target, hessian, 2)
    do.refit(best, target, hessian)
    do.descend(best, target, hessian, 3)
    return best


def inverse_factor(matrix: torch.Tensor, name: str) -> torch.Tensor:
    """Upper triangular U with Uᵀ U = M⁻¹, computed in float64."""
    # M reversed is L Lᵀ, so M is R Rᵀ with R = L reversed, upper triangular; then M⁻¹ = R⁻ᵀ R⁻¹.
    lower = _cholesky(matrix.double().flip(0, 1), name)
    eye = torch.eye(len(matrix), dtype=torch.float64, device=matrix.device)
    upper: torch.Tensor = torch.linalg.solve_triangular(lower.flip(0, 1), eye, upper=True)
    return upper.float()


def _cholesky(matrix: torch.Tensor, name: str) -> torch.Tensor:
    factor: torch.Tensor
    factor, failed = torch.linalg.cholesky_ex(matrix)
    if int(failed):
        message = f"The second moments of {name}'s input are not positive definite."
        raise InputError(message, hint="Calibrate with more, or more varied, text.")
    return factor
