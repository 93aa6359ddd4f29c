"""The float16 super-scales of a matrix's blocks as they are learnt: each is what it was, changed by a share.

Levels, scales and minima stay. Gradients go through the rounding to float16 as if there was none (straight through), so
that what is learnt from is always what the file would hold.
"""

from __future__ import annotations

import torch
from torch import nn

from ggufkit.refine.fields import U8
from ggufkit.refine.grid import Grid, write_grid


class SuperScales:
    """`d` and `dmin` of one matrix.

    Args:
        grid: what the file holds; it is changed in place.
    """

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        self._d, self._dmin = grid.d.clone(), grid.dmin.clone()
        self._of_d, self._of_dmin = (nn.Parameter(torch.zeros_like(half)) for half in (grid.d, grid.dmin))

    @property
    def shares(self) -> list[nn.Parameter]:
        """What is learnt: by how much each `d` is changed, and each `dmin` where the type has some."""
        return [self._of_d] if self.grid.codec.dmin is None else [self._of_d, self._of_dmin]

    def learn(self, gradient: torch.Tensor) -> None:
        """Give the shares their gradients, from that of the weights, (columns, rows)."""
        grid, sub = self.grid, self.grid.codec.sub
        by_run = gradient.view(-1, sub, grid.n_rows)
        of_steps = (by_run * grid.level.view(-1, sub, grid.n_rows)).sum(1).view(grid.scale.shape)
        self._of_d.grad = (of_steps * grid.scale).sum(1, keepdim=True) * self._d
        if grid.codec.dmin is not None:
            of_offsets = grid.codec.sign * by_run.sum(1).view(grid.scale.shape)
            self._of_dmin.grad = (of_offsets * grid.least).sum(1, keepdim=True) * self._dmin

    def round(self) -> None:
        """Have in the grid what the file would hold."""
        with torch.no_grad():
            self.grid.d.copy_(_changed(self._d, self._of_d))
            self.grid.dmin.copy_(_changed(self._dmin, self._of_dmin))

    def raw(self) -> U8:
        """The blocks, uint8 (rows, bytes of a row)."""
        return write_grid(self.grid)


def _changed(start: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    """float16 of a start changed by a share; the start where that is none."""
    changed = (start * (1 + share)).half().float()
    return torch.where(changed.isfinite(), changed, start)
