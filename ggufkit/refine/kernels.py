"""What the search for one matrix is made of, and who does it on a device: torch, or compiled code that does the same.

Rows are independent of each other. Everything is float32 on one device, columns first as in `Grid`: `target` (columns,
rows), `hessian` and `factor` (columns, columns). The torch functions are the reference that others are tested against:
the same steps in the same order, so that levels differ only where a sum's rounding decides between two.
"""

from __future__ import annotations

from typing import Protocol

import torch

from ggufkit.core.progress import Reporter, SilentReporter
from ggufkit.refine import compiled, rounding, scales
from ggufkit.refine.codecs import Codec
from ggufkit.refine.grid import Grid
from ggufkit.refine.sums import TorchSums


class Kernels(Protocol):
    """Steps of a solve, which all but `error` change the grid in place and lower tr(D H Dᵀ), D = weights - target, of every
    row; and the sums that a solve starts from.
    """

    def gptq(
        self, grid: Grid, target: torch.Tensor, factor: torch.Tensor, order: torch.Tensor | None = None
    ) -> None:
        """Set all levels, each column's error made up for in those after it; see `rounding.gptq`."""

    def descend(
        self, grid: Grid, target: torch.Tensor, hessian: torch.Tensor, passes: int, least_gain: float = 0.005
    ) -> None:
        """Choose each level anew with all others fixed; see `rounding.descend`."""

    def refit(self, grid: Grid, target: torch.Tensor, hessian: torch.Tensor) -> None:
        """Move scales, minima and super-scales to their best values, the levels fixed; see `scales.refit`."""

    def error(self, grid: Grid, target: torch.Tensor, hessian: torch.Tensor) -> torch.Tensor:
        """tr(D H Dᵀ) row by row, (rows,); see `rounding.error`."""

    def add_gram(self, sums: torch.Tensor, x: torch.Tensor) -> None:
        """Add xᵀ x to `sums` (n, n), on and right of the diagonal, for x (tokens, n)."""

    def add_products(self, sums: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> None:
        """Add xᵀ y to `sums` (n, m), for x (tokens, n) and y (tokens, m)."""

    def search(self, grid: Grid, target: torch.Tensor, hessian: torch.Tensor) -> None:
        """Run by run, try other steps and offsets with levels rounded anew for each; see `scales.search`."""


class TorchKernels(TorchSums):
    """The reference, on any device."""

    gptq = staticmethod(rounding.gptq)
    descend = staticmethod(rounding.descend)
    refit = staticmethod(scales.refit)
    search = staticmethod(scales.search)
    error = staticmethod(rounding.error)


REFERENCE: Kernels = TorchKernels()
_known: dict[str, Kernels] = {}


def of(device: torch.device, reporter: Reporter | None = None) -> Kernels:
    """The fastest there are for a device; what must be prepared for them is, and told of, once."""
    if device.type not in _known:
        _known[device.type] = _find(device, reporter or SilentReporter())
    return _known[device.type]


def for_codec(device: torch.device, codec: Codec) -> Kernels:
    """Those that can do a block type: for GPUs codebooks and scales that are no whole numbers have none of their own."""
    return of(device) if codec.is_even or device.type == "cpu" else REFERENCE


def _find(device: torch.device, reporter: Reporter) -> Kernels:
    found: Kernels | None = None
    if device.type == "cpu":
        found = compiled.find(reporter)
    elif device.type == "cuda":
        found = _on_gpu(device, reporter)
    return found or REFERENCE


def _on_gpu(device: torch.device, reporter: Reporter) -> Kernels | None:
    try:
        from ggufkit.refine.triton_kernels import TritonKernels, try_out

        try_out(device)
    except Exception as error:  # whatever is missing: Triton, a C compiler for it, a GPU that it knows
        why = f"{type(error).__name__}: {error}".splitlines()[0]
        reporter.warn(
            f"Refinement runs without its kernels for GPUs, several times slower: {why} "
            "They need Triton, which comes with torch for CUDA on Linux, and a C compiler."
        )
        return None
    return TritonKernels()
