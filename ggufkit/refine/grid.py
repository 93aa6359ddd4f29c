"""A tensor's blocks as torch sees them: columns first, so that one column of all rows is contiguous."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ggufkit.refine.codebooks import Codebook
from ggufkit.refine.codecs import Blocks, Codec, pack, unpack
from ggufkit.refine.codewords import nearest
from ggufkit.refine.device_blocks import read_planes, write_planes
from ggufkit.refine.fields import U8


@dataclass(frozen=True)
class Grid:
    """Levels, and the steps and offsets that give them their worth: float32 on one device.

    Shapes, with B blocks of S runs in a row: `level` (columns, rows), `d` and `dmin` (B, 1, rows), `scale` and
    `least` (B, S, rows), ones where the type has none. The tensors are changed in place.
    """

    codec: Codec
    level: torch.Tensor
    d: torch.Tensor
    dmin: torch.Tensor
    scale: torch.Tensor
    least: torch.Tensor

    @property
    def n_columns(self) -> int:
        """Width of a row."""
        return self.level.shape[0]

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return self.level.shape[1]

    def steps(self) -> torch.Tensor:
        """What one level is worth, (runs in a row, rows)."""
        return (self.d * self.scale).flatten(0, 1)

    def offsets(self) -> torch.Tensor:
        """What level 0 is worth, (runs in a row, rows)."""
        return (self.codec.sign * (self.dmin * self.least)).flatten(0, 1)

    def weights(self) -> torch.Tensor:
        """The weights, (columns, rows)."""
        runs = self.level.view(-1, self.codec.sub, self.n_rows)
        return torch.add(self.steps()[:, None] * runs, self.offsets()[:, None]).flatten(0, 1)

    def weights_of(self, run: int) -> torch.Tensor:
        """The weights of one run, (columns of the run, rows)."""
        sub, (block, place) = self.codec.sub, divmod(run, self.codec.block // self.codec.sub)
        offset = self.codec.sign * self.dmin[block, 0] * self.least[block, place]
        return self.d[block, 0] * self.scale[block, place] * self.level[run * sub : (run + 1) * sub] + offset

    def nearest(self, x: torch.Tensor) -> torch.Tensor:
        """Round `x`, in units of levels, to levels that a type has whose levels are free; may overwrite `x`."""
        grid = self.codec.grid
        if len(grid) == grid[-1] - grid[0] + 1:
            return x.round_().clamp_(grid[0], grid[-1])
        values = torch.tensor(grid, dtype=x.dtype, device=x.device)
        return values[torch.bucketize(x.contiguous(), (values[1:] + values[:-1]) / 2)]

    def choose(self, x: torch.Tensor, metric: torch.Tensor | None) -> torch.Tensor:
        """Levels for `x` (columns of a unit, rows), in units of levels; may overwrite `x`.

        Args:
            metric: what their errors count, (columns, columns); None where each level is free.
        """
        book = self.codec.level
        if isinstance(book, Codebook) and metric is not None:
            return nearest(book, x, metric)
        return self.nearest(x)

    def rows(self, start: int, stop: int) -> Grid:
        """Some of the rows, in memory of their own."""
        return self._map(lambda t: t[..., start:stop].contiguous().clone())

    def where(self, rows: torch.Tensor, other: Grid) -> Grid:
        """This grid in the rows that are True, `other` in the rest."""
        return Grid(
            self.codec, *(torch.where(rows, a, b) for a, b in zip(self.tensors(), other.tensors(), strict=True))
        )

    def _map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Grid:
        return Grid(self.codec, *(change(t) for t in self.tensors()))

    def tensors(self) -> tuple[torch.Tensor, ...]:
        """All tensors, in the order of the fields."""
        return self.level, self.d, self.dmin, self.scale, self.least


def join(grids: Sequence[Grid]) -> Grid:
    """One grid with the rows of all, which have one codec and width."""
    parts = zip(*(grid.tensors() for grid in grids), strict=True)
    return Grid(grids[0].codec, *(torch.cat(same, dim=-1) for same in parts))


def read_grid(codec: Codec, raw: U8, device: torch.device | None = None) -> Grid:
    """The grid of a matrix stored as `raw`, uint8 (rows, bytes of a row)."""
    if device is not None and device.type != "cpu" and codec.is_even:
        level, *rest = read_planes(codec, torch.from_numpy(np.array(raw)).to(device))
        return Grid(codec, level.flatten(0, 1), *rest)
    blocks, n_rows = unpack(codec, raw), len(raw)

    def columns_first(values: npt.NDArray[Any]) -> torch.Tensor:
        by_row = torch.from_numpy(values.reshape(n_rows, -1, values.shape[-1])).to(device)
        return by_row.permute(1, 2, 0).to(torch.float32).contiguous()

    level = columns_first(blocks.level).flatten(0, 1)
    d, dmin = columns_first(blocks.d), columns_first(blocks.dmin)
    scale, least = columns_first(blocks.scale), columns_first(blocks.least)
    return Grid(codec, level, d, dmin, scale, least.expand_as(scale).clone())


def write_grid(grid: Grid) -> U8:
    """The inverse of `read_grid`."""

    def by_block(values: torch.Tensor, dtype: torch.dtype) -> npt.NDArray[Any]:
        rows_first = values.to(dtype).permute(2, 0, 1)
        return rows_first.reshape(-1, values.shape[1]).contiguous().cpu().numpy()

    level = grid.level.view(-1, grid.codec.block, grid.n_rows)
    if level.device.type != "cpu" and grid.codec.is_even:
        planes = write_planes(grid.codec, (level, grid.d, grid.dmin, grid.scale, grid.least))
        packed: U8 = planes.cpu().numpy()
        return packed
    halves, of_runs = (grid.d, grid.dmin), ((grid.scale, grid.codec.scale), (grid.least, grid.codec.least))
    blocks = Blocks(
        grid.codec,
        by_block(level, torch.int8),
        *(by_block(t, torch.float16) for t in halves),
        *(by_block(t, torch.int8 if not field or field.is_dense else torch.float32) for t, field in of_runs),
    )
    return pack(blocks).reshape(grid.n_rows, -1)
