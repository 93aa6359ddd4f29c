"""Refinement on a GPU: matrix products between blocks of columns, and within a block the kernels of `triton_code`.

A pass over n columns is n / 256 products and as many launches, in place of the reference's dozen launches a column.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.weak import WeakIdKeyDictionary

from ggufkit.refine import triton_code, triton_scales
from ggufkit.refine.codecs import Codec
from ggufkit.refine.curvature import curvatures
from ggufkit.refine.fields import Field
from ggufkit.refine.grid import Grid
from ggufkit.refine.scales import FACTORS, SHIFT
from ggufkit.refine.sums import TorchSums

# Columns of a launch: a multiple of every block.
_COLUMNS = 256


class TritonKernels(TorchSums):
    """`kernels.Kernels` for the GPU that the tensors are on.

    What a matrix is made into for products is kept as long as the matrix itself.
    """

    def __init__(self) -> None:
        self._ready: WeakIdKeyDictionary = WeakIdKeyDictionary()

    def gptq(
        self, grid: Grid, target: torch.Tensor, factor: torch.Tensor, order: torch.Tensor | None = None
    ) -> None:
        """As `rounding.gptq`."""
        columns = torch.arange(grid.n_columns, device=target.device) if order is None else order
        errors = torch.zeros_like(target)
        launcher = _Launcher(grid, self._of_factor(factor), errors)
        launcher.run(triton_code.gptq, (target, columns), grid.codec.sub, _form(grid.codec), triangular=True)

    def descend(
        self, grid: Grid, target: torch.Tensor, hessian: torch.Tensor, passes: int, least_gain: float = 0.005
    ) -> None:
        """As `rounding.descend`."""
        launcher = _Launcher(grid, self._of_hessian(hessian), grid.weights() - target)
        left = float(launcher.error().sum())
        for _ in range(passes):
            gained = torch.zeros(grid.n_rows, device=target.device)
            launcher.run(triton_code.descend, gained, grid.codec.sub, _form(grid.codec))
            gain = float(gained.sum())
            left -= gain
            if gain <= least_gain * left:
                return

    def refit(self, grid: Grid, target: torch.Tensor, hessian: torch.Tensor) -> None:
        """As `scales.refit`."""
        launcher = _Launcher(grid, self._of_hessian(hessian), grid.weights() - target)
        if grid.codec.scale or grid.codec.least:
            launcher.run(triton_scales.refit_runs, grid.codec.sub, _form(grid.codec))
        launcher.run(triton_scales.refit_blocks, grid.codec.sub, _form(grid.codec))

    def search(self, grid: Grid, target: torch.Tensor, hessian: torch.Tensor) -> None:
        """As `scales.search`."""
        launcher = _Launcher(grid, self._of_hessian(hessian), grid.weights() - target)
        given = tuple(t.contiguous() for t in curvatures(hessian, grid.codec.sub))
        launcher.run(triton_scales.search, given, grid.codec.sub, _form(grid.codec))

    def error(self, grid: Grid, target: torch.Tensor, hessian: torch.Tensor) -> torch.Tensor:
        """As `rounding.error`."""
        return _Launcher(grid, self._of_hessian(hessian), grid.weights() - target).error()

    def _of_hessian(self, hessian: torch.Tensor) -> Matrix:
        if hessian not in self._ready:
            self._ready[hessian] = _left(hessian)
        return Matrix(hessian, self._ready[hessian])

    def _of_factor(self, factor: torch.Tensor) -> Matrix:
        if factor not in self._ready:
            transposed = factor.T.contiguous()
            self._ready[factor] = Matrix(transposed, _left(transposed))
        matrix: Matrix = self._ready[factor]
        return matrix


@dataclass(frozen=True)
class Matrix:
    """A square float32 matrix, ready for products with float32 sums.

    Where the GPU multiplies bfloat16 into float32, both factors are split into two bfloat16 values each, and all but the
    product of the low parts is summed up: relative errors are about 1e-5, at four times the speed of float32.

    Args:
        values: the matrix, (columns, columns).
        split: its parts, three columns for each of `values`; None where float32 itself is multiplied.
    """

    values: torch.Tensor
    split: torch.Tensor | None

    def parts(self, right: torch.Tensor) -> torch.Tensor:
        """What `times` takes for a matrix (columns, rows): three rows for each of it, or the matrix itself."""
        if self.split is None:
            return right
        high, low = _halves(right)
        return torch.stack((high, low, high), dim=1).flatten(0, 1)

    def times(self, parts: torch.Tensor, rows: slice = slice(None), until: int | None = None) -> torch.Tensor:
        """Some rows of the product, summed up over the columns before `until`; float32."""
        if self.split is None:
            return self.values[rows, :until] @ parts[:until]
        until = None if until is None else 3 * until
        return torch.mm(self.split[rows, :until], parts[:until], out_dtype=torch.float32)


def _left(values: torch.Tensor) -> torch.Tensor | None:
    if not _multiplies_bfloat16(values.device):
        return None
    high, low = _halves(values)
    return torch.stack((high, high, low), dim=2).flatten(1, 2)


def _halves(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    high = values.bfloat16()
    return high, (values - high).bfloat16()


def _multiplies_bfloat16(device: torch.device) -> bool:
    known = hasattr(torch.ops.aten.mm, "dtype") and torch.version.cuda is not None
    return known and device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)


class _Launcher:
    """Passes over the columns of a grid: for each block of them a product, and a launch."""

    def __init__(self, grid: Grid, matrix: Matrix, difference: torch.Tensor) -> None:
        self._grid, self._matrix, self._difference = grid, matrix, difference
        self._parts = matrix.parts(difference)
        self._change = torch.empty((_COLUMNS, grid.n_rows), device=difference.device)

    def error(self) -> torch.Tensor:
        """tr(D H Dᵀ) row by row, (rows,)."""
        return (self._difference * self._matrix.times(self._parts)).sum(0)

    def run(self, kernel: Any, *more: Any, triangular: bool = False) -> None:
        """Launch `kernel` block by block; `more` is what it takes besides grid, work and sizes.

        Args:
            triangular: the matrix has nothing right of its diagonal.
        """
        grid, codec = self._grid, self._grid.codec
        programs = (-(-grid.n_rows // triton_code.ROWS.value),)
        for start in range(0, grid.n_columns, _COLUMNS):
            stop = min(start + _COLUMNS, grid.n_columns)
            slope = self._matrix.times(self._parts, slice(start, stop), start if triangular else None)
            work = (self._matrix.values, self._difference, self._parts, slope, self._change)
            sizes = (grid.n_rows, grid.n_columns, start, stop - start, codec.block // codec.sub)
            kernel[programs](grid.tensors(), work, sizes, *more, num_warps=1)


def try_out(device: torch.device) -> None:
    """Run a kernel on a GPU. Raises whatever Triton does where that cannot be, RuntimeError if it is wrong."""
    values = torch.full((1,), 0.7, device=device)
    triton_code.round_one[1,]((values,), ((0, 1), ()))
    if float(values) != 1:
        raise RuntimeError("it computes wrong results.")


def _form(codec: Codec) -> tuple[Any, ...]:
    """What the kernels are told of a codec; see `triton_code`."""
    levels, ends = codec.grid, (codec.grid[0], codec.grid[-1])
    even = len(levels) == ends[1] - ends[0] + 1
    tries = (FACTORS[0], FACTORS[-1], SHIFT)
    levels = ends if even else levels
    return levels, _ends(codec.scale), _ends(codec.least), codec.sign, codec.dmin is not None, tries


def _ends(field: Field | None) -> tuple[float, ...]:
    return (field.sorted_values[0], field.sorted_values[-1]) if field else ()
