"""TABLE: where each block type keeps its levels, its steps and its offsets.

In every type listed here `weight = step * level + offset`, with one step and one offset for each run of
`sub` weights. A row says which bits of a block hold what; one pair of functions reads and writes them all.
Source: `ggml/src/ggml-common.h` (the structs) and `ggml-quants.c` (`dequantize_row_*`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

U8 = npt.NDArray[np.uint8]
I8 = npt.NDArray[np.int8]
F16 = npt.NDArray[np.float16]
F32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Bits:
    """`width` bits of each element: element `i` keeps them in byte `byte[i]`, from bit `shift[i]` up."""

    byte: tuple[int, ...]
    shift: tuple[int, ...]
    width: int


@dataclass(frozen=True)
class Field:
    """An integer for each element. `bits` go from the lowest up; `values[n]` is what the stored n means."""

    bits: tuple[Bits, ...]
    values: tuple[int, ...]

    @cached_property
    def sorted_values(self) -> tuple[int, ...]:
        """The values, ascending."""
        return tuple(sorted(self.values))

    def read(self, raw: U8) -> I8:
        """Values [n_blocks, n_elements] of `raw` [n_blocks, block bytes]."""
        code, low = np.zeros((len(raw), len(self.bits[0].byte)), np.uint8), 0
        for part in self.bits:
            piece = (raw[:, part.byte] >> np.array(part.shift, np.uint8)) & np.uint8((1 << part.width) - 1)
            code |= piece << np.uint8(low)
            low += part.width
        values: I8 = np.array(self.values, np.int8)[code]
        return values

    def write(self, values: I8, raw: U8) -> None:
        """Set this field's bits, zero so far, in `raw`. Every value must be one of `values`."""
        code: U8 = self.codes[values.view(np.uint8)]
        for part in self.bits:
            piece = code & np.uint8((1 << part.width) - 1)
            code = code >> np.uint8(part.width)
            shifts = np.array(part.shift)
            for shift in set(part.shift):
                here = np.flatnonzero(shifts == shift)
                raw[:, np.array(part.byte)[here]] |= piece[:, here] << shift

    @cached_property
    def codes(self) -> U8:
        """What is stored for each value, by the value's byte, (256,)."""
        codes = np.zeros(256, np.uint8)
        codes[np.array(self.values, np.int8).view(np.uint8)] = np.arange(len(self.values))
        return codes


@dataclass(frozen=True)
class Codec:
    """One block type.

    `block` weights take `size` bytes, and `sub` of them share a step. `d` and `dmin` are the byte offsets of
    the float16 super-scales: step = d * scale, offset = sign * dmin * least, where a type without `scale` or
    `least` has 1 in their place.
    """

    name: str
    block: int
    size: int
    sub: int
    level: Field
    d: int
    dmin: int | None = None
    scale: Field | None = None
    least: Field | None = None
    sign: int = -1

    @cached_property
    def grid(self) -> tuple[int, ...]:
        """The levels that a rounding may choose, ascending. llama.cpp never writes an int8 of -128."""
        return tuple(v for v in self.level.sorted_values if v != -128)


@dataclass(frozen=True)
class Blocks:
    """The blocks of a tensor, unpacked.

    Shapes: `level` [n_blocks, block], `d` and `dmin` [n_blocks, 1], `scale` and `least` [n_blocks, block / sub]
    or [n_blocks, 1] of ones where the type has none.
    """

    codec: Codec
    level: I8
    d: F16
    dmin: F16
    scale: I8
    least: I8

    @property
    def steps(self) -> F32:
        """What one level is worth, [n_blocks, block / sub] float32."""
        return self.d.astype(np.float32) * self.scale

    @property
    def offsets(self) -> F32:
        """What level 0 is worth, [n_blocks, block / sub] float32; -0.0 where the type has no offset."""
        return self.codec.sign * (self.dmin.astype(np.float32) * self.least)

    def weights(self) -> F32:
        """The weights [n_blocks, block], to the bit as gguf's `dequantize` gives them."""
        runs = self.level.reshape(len(self.level), -1, self.codec.sub).astype(np.float32)
        with np.errstate(invalid="ignore", over="ignore"):
            weights = self.steps[..., None] * runs + self.offsets[..., None]
        return weights.reshape(self.level.shape)


def unpack(codec: Codec, raw: U8) -> Blocks:
    """Read the blocks of `raw`, uint8 of any shape whose last dimension is whole blocks."""
    raw = np.ascontiguousarray(raw).reshape(-1, codec.size)
    one, zero = np.ones((len(raw), 1), np.int8), np.zeros((len(raw), 1), np.float16)
    return Blocks(
        codec,
        codec.level.read(raw),
        _half(raw, codec.d),
        zero if codec.dmin is None else _half(raw, codec.dmin),
        codec.scale.read(raw) if codec.scale else one,
        codec.least.read(raw) if codec.least else one,
    )


def pack(blocks: Blocks) -> U8:
    """Write blocks back, [n_blocks, size] uint8: the inverse of `unpack`, byte for byte."""
    codec = blocks.codec
    raw = np.zeros((len(blocks.level), codec.size), np.uint8)
    codec.level.write(blocks.level, raw)
    raw[:, codec.d : codec.d + 2] = blocks.d.view(np.uint8)
    if codec.dmin is not None:
        raw[:, codec.dmin : codec.dmin + 2] = blocks.dmin.view(np.uint8)
    if codec.scale:
        codec.scale.write(blocks.scale, raw)
    if codec.least:
        codec.least.write(blocks.least, raw)
    return raw


def _half(raw: U8, at: int) -> F16:
    return np.ascontiguousarray(raw[:, at : at + 2]).view(np.float16)


def _run(at: int, n_bytes: int, width: int, stride: int) -> Bits:
    """`width`-bit pieces that go through `stride` bytes at one shift, then at the next, then on to more bytes."""
    groups, shifts = range(at, at + n_bytes, stride), range(0, 8, width)
    where = [(first + i, shift) for first in groups for shift in shifts for i in range(stride)]
    byte, shift = zip(*where, strict=True)
    return Bits(byte, shift, width)


def _join(*parts: tuple[int, int, int], width: int) -> Bits:
    """Runs of (first byte, number of bytes, shift), one after the other."""
    where = [(at + i, shift) for at, n, shift in parts for i in range(n)]
    byte, shift = zip(*where, strict=True)
    return Bits(byte, shift, width)


def _field(values: Sequence[int], *bits: Bits) -> Field:
    return Field(bits, tuple(values))


_INT8 = (*range(128), *range(-128, 0))
_NONLINEAR = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)

# Q4_K and Q5_K: eight 6-bit scales and eight 6-bit minima in 12 bytes; the last four of each are split.
_K4_SCALE = _field(range(64), _join((4, 4, 0), (12, 4, 0), width=4), _join((4, 4, 4), (4, 4, 6), width=2))
_K4_LEAST = _field(range(64), _join((8, 4, 0), (12, 4, 4), width=4), _join((8, 4, 4), (8, 4, 6), width=2))

CODECS = {
    c.name: c
    for c in (
        Codec("Q4_0", 32, 18, 32, _field(range(-8, 8), _run(2, 16, 4, 16)), d=0),
        Codec("Q4_1", 32, 20, 32, _field(range(16), _run(4, 16, 4, 16)), d=0, dmin=2, sign=1),
        Codec("Q5_0", 32, 22, 32, _field(range(-16, 16), _run(6, 16, 4, 16), _run(2, 4, 1, 1)), d=0),
        Codec("Q5_1", 32, 24, 32, _field(range(32), _run(8, 16, 4, 16), _run(4, 4, 1, 1)), d=0, dmin=2, sign=1),
        Codec("Q8_0", 32, 34, 32, _field(_INT8, _run(2, 32, 8, 32)), d=0),
        Codec("IQ4_NL", 32, 18, 32, _field(_NONLINEAR, _run(2, 16, 4, 16)), d=0),
        Codec(
            "IQ4_XS", 256, 136, 32,
            _field(_NONLINEAR, _run(8, 128, 4, 16)),
            d=0,
            scale=_field(range(-32, 32), _run(4, 4, 4, 1), _run(2, 2, 2, 1)),
        ),
        Codec(
            "Q2_K", 256, 84, 16,
            _field(range(4), _run(16, 64, 2, 32)),
            d=80,
            dmin=82,
            scale=_field(range(16), _join((0, 16, 0), width=4)),
            least=_field(range(16), _join((0, 16, 4), width=4)),
        ),
        Codec(
            "Q3_K", 256, 110, 16,
            _field(range(-4, 4), _run(32, 64, 2, 32), _run(0, 32, 1, 32)),
            d=108,
            scale=_field(range(-32, 32), _run(96, 8, 4, 8), _run(104, 4, 2, 4)),
        ),
        Codec(
            "Q4_K", 256, 144, 32,
            _field(range(16), _run(16, 128, 4, 32)),
            d=0, dmin=2, scale=_K4_SCALE, least=_K4_LEAST,
        ),
        Codec(
            "Q5_K", 256, 176, 32,
            _field(range(32), _run(48, 128, 4, 32), _run(16, 32, 1, 32)),
            d=0, dmin=2, scale=_K4_SCALE, least=_K4_LEAST,
        ),
        Codec(
            "Q6_K", 256, 210, 16,
            _field(range(-32, 32), _run(0, 128, 4, 64), _run(128, 64, 2, 32)),
            d=208,
            scale=_field(_INT8, _join((192, 16, 0), width=8)),
        ),
    )
}  # fmt: skip
"""By the name that `gguf.GGMLQuantizationType` gives the type."""
