"""Numbers in the bits of blocks: where they are, and what they mean."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

U8 = npt.NDArray[np.uint8]
I8 = npt.NDArray[np.int8]
F16 = npt.NDArray[np.float16]
F32 = npt.NDArray[np.float32]
Numbers = npt.NDArray[Any]


@dataclass(frozen=True)
class Bits:
    """`width` bits of each element: element `i` keeps them in byte `byte[i]`, from bit `shift[i]` up."""

    byte: tuple[int, ...]
    shift: tuple[int, ...]
    width: int


@dataclass(frozen=True)
class Field:
    """A number for each element. `bits` go from the lowest up; `values[n]` is what the stored n means."""

    bits: tuple[Bits, ...]
    values: tuple[float, ...]

    @property
    def n_elements(self) -> int:
        """How many numbers a block has."""
        return len(self.bits[0].byte)

    @cached_property
    def sorted_values(self) -> tuple[float, ...]:
        """The values, ascending, each once."""
        return tuple(sorted(set(self.values)))

    @cached_property
    def is_dense(self) -> bool:
        """Whether the values are whole numbers without gaps."""
        values = self.sorted_values
        return len(values) == values[-1] - values[0] + 1 and all(v == int(v) for v in values)

    def read(self, raw: U8) -> Numbers:
        """Values [n_blocks, n_elements] of `raw` [n_blocks, block bytes], of the smallest type that has them all."""
        code, low = np.zeros((len(raw), self.n_elements), self._known[1].dtype), 0
        for part in self.bits:
            piece = (raw[:, part.byte] >> np.array(part.shift, np.uint8)) & np.uint8((1 << part.width) - 1)
            code |= piece.astype(code.dtype) << code.dtype.type(low)
            low += part.width
        return self._table[code]

    def write(self, values: Numbers, raw: U8) -> None:
        """Set this field's bits, zero so far, in `raw`. Every value must be one of `values`."""
        code = self.codes_of(values)
        for part in self.bits:
            piece = (code & code.dtype.type((1 << part.width) - 1)).astype(np.uint8)
            code = code >> code.dtype.type(part.width)
            shifts = np.array(part.shift)
            for shift in set(part.shift):
                here = np.flatnonzero(shifts == shift)
                raw[:, np.array(part.byte)[here]] |= piece[:, here] << np.uint8(shift)

    def codes_of(self, values: Numbers) -> Numbers:
        """What is stored for each value: the first that means it."""
        if self._table.dtype == np.int8:
            return self.codes[values.astype(np.int8, copy=False).view(np.uint8)]
        known, first = self._known
        return first[np.searchsorted(known, values)]

    @cached_property
    def codes(self) -> U8:
        """What is stored for each whole value, by the value's byte, (256,)."""
        known, first = self._known
        codes = np.zeros(256, np.uint8)
        codes[known.astype(np.int8).view(np.uint8)] = first
        return codes

    @cached_property
    def _table(self) -> Numbers:
        values = np.array(self.values)
        if values.dtype.kind == "f":
            return values.astype(np.float32)
        return values.astype(np.int8 if values.min() >= -128 and values.max() < 128 else np.int16)

    @cached_property
    def _known(self) -> tuple[Numbers, Numbers]:
        known, first = np.unique(self._table, return_index=True)
        return known, first.astype(np.uint8 if len(self.values) <= 256 else np.uint16)
