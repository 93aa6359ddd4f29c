"""TABLE: where each block type keeps its levels, its steps and its offsets.

In every type listed here `weight = step * level + offset`, with one step and one offset for each run of
`sub` weights. A row says which bits of a block hold what; one pair of functions reads and writes them all. Levels are
single numbers, or words of a codebook (`codebooks`).
Source: `ggml/src/ggml-common.h` (the structs) and `ggml-quants.c` (`dequantize_row_*`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ggufkit.refine.codebooks import Codebook
from ggufkit.refine.fields import F16, F32, I8, U8, Bits, Field


@dataclass(frozen=True)
class Codec:
    """One block type.

    `block` weights take `size` bytes, and `sub` of them share a step. `d` and `dmin` are the byte offsets of
    the float16 super-scales: step = d * scale, offset = sign * dmin * least, where a type without `d`, `scale` or
    `least` has 1 in their place, and one without `dmin` 0.
    """

    name: str
    block: int
    size: int
    sub: int
    level: Field | Codebook
    d: int | None = None
    dmin: int | None = None
    scale: Field | None = None
    least: Field | None = None
    sign: int = -1

    @cached_property
    def grid(self) -> tuple[int, ...]:
        """The levels that a rounding may choose, ascending. llama.cpp never writes an int8 of -128."""
        return tuple(int(v) for v in self.level.sorted_values if v != -128)

    @property
    def unit(self) -> int:
        """How many neighbouring levels are chosen together: 1 where each is free."""
        return self.level.unit if isinstance(self.level, Codebook) else 1

    @cached_property
    def is_even(self) -> bool:
        """Whether levels are free, and scales, minima and their super-scales are whole numbers and float16 ones."""
        scales = [field for field in (self.scale, self.least) if field]
        return self.unit == 1 and self.d is not None and all(field.is_dense for field in scales)


@dataclass(frozen=True)
class Blocks:
    """The blocks of a tensor, unpacked.

    Shapes: `level` [n_blocks, block], `d` and `dmin` [n_blocks, 1], `scale` and `least` [n_blocks, block / sub]
    or [n_blocks, 1]; ones for a `d`, `scale` or `least` that the type has not.
    """

    codec: Codec
    level: I8
    d: F16
    dmin: F16
    scale: I8 | F32
    least: I8 | F32

    @property
    def steps(self) -> F32:
        """What one level is worth, [n_blocks, block / sub] float32."""
        return self.d.astype(np.float32) * self.scale.astype(np.float32)

    @property
    def offsets(self) -> F32:
        """What level 0 is worth, [n_blocks, block / sub] float32; -0.0 where the type has no offset."""
        return self.codec.sign * (self.dmin.astype(np.float32) * self.least.astype(np.float32))

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
        one.astype(np.float16) if codec.d is None else _half(raw, codec.d),
        zero if codec.dmin is None else _half(raw, codec.dmin),
        codec.scale.read(raw) if codec.scale else one,
        codec.least.read(raw) if codec.least else one,
    )


def pack(blocks: Blocks) -> U8:
    """Write blocks back, [n_blocks, size] uint8: the inverse of `unpack`, byte for byte."""
    codec = blocks.codec
    raw = np.zeros((len(blocks.level), codec.size), np.uint8)
    codec.level.write(blocks.level, raw)
    if codec.d is not None:
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


def _field(values: Sequence[float], *bits: Bits) -> Field:
    return Field(bits, tuple(values))


def _words(at: int, n: int, stride: int, *high: Bits) -> Field:
    """Numbers of words, whose low eight bits are `stride` bytes apart."""
    width = 8 + sum(part.width for part in high)
    return _field(range(1 << width), Bits(tuple(range(at, at + n * stride, stride)), (0,) * n, 8), *high)


def _signs(at: int) -> Field:
    """A sign for each weight, in 32 bytes."""
    return _field(_SIGNS, _bits(8 * at + i for i in range(256)))


def _packed_signs(*first: int) -> Field:
    """Seven signs for each eight weights, in bits that follow each other from one of the `first` on."""
    return _field(_SIGNS, _bits(bit + i for bit in first for i in range(7)))


def _bits(places: Iterable[int]) -> Bits:
    """Single bits of a block, counted from its begin."""
    byte, shift = zip(*(divmod(place, 8) for place in places), strict=True)
    return Bits(byte, shift, 1)


def _nibbles(at: int, n: int) -> Bits:
    return Bits(tuple(at + i // 2 for i in range(n)), tuple(4 * (i % 2) for i in range(n)), 4)


def _high_nibbles(at: int, n: int, stride: int) -> Bits:
    return Bits(tuple(range(at, at + n * stride, stride)), (4,) * n, 4)


def _odd(worth: float) -> Sequence[float]:
    """Scales of four bits, which are odd: 1, 3 … 31, each worth so much."""
    return [worth * n for n in range(1, 32, 2)]


_SIGNS = (1, -1)
_INT8 = (*range(128), *range(-128, 0))
_FLOAT4 = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)  # E2M1, doubled
_E8M0 = tuple(2.0 ** (n - 128) for n in range(256))  # halved, as the levels are doubled
# UE4M3, halved; what would be its NaN is 0.
_E4M3 = (
    *(n * 2.0**-10 for n in range(8)),
    *((8 + n % 8) * 2.0 ** (n // 8 - 11) for n in range(8, 127)),
    0.0,
)
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
        Codec("MXFP4", 32, 17, 32, _field(_FLOAT4, _run(1, 16, 4, 16)), scale=_field(_E8M0, Bits((0,), (0,), 8))),
        # The sign of a scale is never set.
        Codec("NVFP4", 64, 36, 16, _field(_FLOAT4, _run(4, 32, 4, 8)), scale=_field(_E4M3, _join((0, 4, 0), width=7))),
        Codec(
            "IQ2_XXS", 256, 66, 32,
            Codebook("IQ2_XXS", 8, 1 / 8, _field(range(256), _join(*((2 + 8 * g, 4, 0) for g in range(8)), width=8)),
                     _packed_signs(*(8 * (6 + 8 * g) + 7 * i for g in range(8) for i in range(4)))),
            d=0, scale=_field(_odd(1 / 8), _high_nibbles(9, 8, 8)),
        ),
        Codec(
            "IQ2_XS", 256, 74, 16,
            Codebook("IQ2_XS", 8, 1 / 8, _words(2, 32, 2, _bits(8 * (3 + 2 * w) for w in range(32))),
                     _packed_signs(*(8 * (3 + 2 * w) + 1 for w in range(32)))),
            d=0, scale=_field(_odd(1 / 8), _nibbles(66, 16)),
        ),
        Codec(
            "IQ2_S", 256, 82, 16,
            Codebook("IQ2_S", 8, 1 / 8, _words(2, 32, 1, _run(66, 8, 2, 1)), _signs(34)),
            d=0, scale=_field(_odd(1 / 8), _nibbles(74, 16)),
        ),
        Codec(
            "IQ3_XXS", 256, 98, 32,
            Codebook("IQ3_XXS", 4, 1 / 4, _words(2, 64, 1),
                     _packed_signs(*(8 * (66 + 4 * g) + 7 * i for g in range(8) for i in range(4)))),
            d=0, scale=_field(_odd(1 / 4), _high_nibbles(69, 8, 4)),
        ),
        Codec(
            "IQ3_S", 256, 110, 32,
            Codebook("IQ3_S", 4, 1, _words(2, 64, 1, _run(66, 8, 1, 1)), _signs(74)),
            d=0, scale=_field([int(n) for n in _odd(1)], _nibbles(106, 8)),
        ),
    )
}  # fmt: skip
"""By the name that `gguf.GGMLQuantizationType` gives the type."""
