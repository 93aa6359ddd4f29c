"""What errors count within some columns: parts of H, and of the factor of its inverse."""

from __future__ import annotations

import torch

# Shares of the mean diagonal; the later ones for what is still indefinite.
_STEADY = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)


def curvatures(hessian: torch.Tensor, sub: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """H within each run of `sub` columns, its inverse, and the inverse's upper triangular factor: (runs, sub, sub)."""
    near = _diagonal_blocks(hessian, sub).double()
    # Sums of inputs that depend on each other can miss being positive definite by a rounding error.
    diagonal = near.diagonal(dim1=1, dim2=2)
    mean = diagonal.mean(1, keepdim=True)
    diagonal += _STEADY[0] * mean
    for share in _STEADY[1:]:
        failed = torch.linalg.cholesky_ex(near).info != 0
        diagonal += share * mean * failed[:, None]
    inverse = torch.linalg.inv(near)
    factors = torch.linalg.cholesky(inverse, upper=True)
    return near.float(), inverse.float(), factors.float()


def metrics_of(factor: torch.Tensor, unit: int) -> torch.Tensor:
    """What errors of each `unit` columns count when all columns after them make up for them, (units, unit, unit).

    Args:
        factor: upper triangular U with Uᵀ U = H⁻¹.
    """
    upper = _diagonal_blocks(factor, unit).double()
    metrics: torch.Tensor = torch.linalg.inv(upper.mT @ upper).float()
    return metrics


def _diagonal_blocks(matrix: torch.Tensor, size: int) -> torch.Tensor:
    """(n / size, size, size) of (n, n)."""
    return torch.stack([matrix[i : i + size, i : i + size] for i in range(0, len(matrix), size)])
