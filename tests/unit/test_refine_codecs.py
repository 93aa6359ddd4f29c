"""Block layouts: every bit has its place, and the weights are gguf's own to the last bit."""

from __future__ import annotations

import numpy as np
import pytest
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize, quantize
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ggufkit.refine.codebooks import Codebook
from ggufkit.refine.codecs import CODECS, Codec, pack, unpack
from ggufkit.refine.fields import U8

NAMES = sorted(CODECS)
CODEBOOKS = sorted(name for name in NAMES if isinstance(CODECS[name].level, Codebook))
FINITE = np.arange(1 << 16, dtype=np.uint16)[np.isfinite(np.arange(1 << 16, dtype=np.uint16).view(np.float16))]


def usable(codec: Codec, raw: U8, d: U8, dmin: U8) -> U8:
    """Blocks whose super-scales are these, and whose other scales are numbers of the format that weights are finite by."""
    for at, halves in ((codec.d, d), (codec.dmin, dmin)):
        if at is not None:
            raw[:, at : at + 2] = halves
    if codec.name == "MXFP4":
        raw[:, 0] %= 252
    if codec.name == "NVFP4":
        raw[:, :4] &= 127
    return raw


def any_halves(rng: np.random.Generator, n: int) -> U8:
    return rng.choice(FINITE, (n, 1)).view(np.uint8)


@pytest.mark.parametrize("name", NAMES)
def test_a_row_of_the_table_has_gguf_s_sizes(name: str) -> None:
    codec = CODECS[name]
    assert (codec.block, codec.size) == GGML_QUANT_SIZES[GGMLQuantizationType[name]]
    assert codec.block % codec.sub == 0
    assert list(codec.grid) == sorted(set(codec.grid))


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_any_bytes_come_back(name: str, data: st.DataObject) -> None:
    codec = CODECS[name]
    raw = data.draw(arrays(np.uint8, (data.draw(st.integers(1, 4)), codec.size)))
    blocks, again = unpack(codec, raw), pack(unpack(codec, raw))
    if not name.endswith("FP4"):  # in which 0 has two signs
        assert np.array_equal(again, raw)
    assert np.array_equal(pack(unpack(codec, again)), again)
    for field in ("level", "scale", "least"):
        assert np.array_equal(getattr(unpack(codec, again), field), getattr(blocks, field))


@pytest.mark.parametrize("name", NAMES)
@given(seed=st.integers(0, 1 << 32))
@settings(max_examples=25, deadline=None)
def test_weights_are_gguf_s_to_the_bit(name: str, seed: int) -> None:
    codec, rng = CODECS[name], np.random.default_rng(seed)
    raw = rng.integers(0, 256, (8, codec.size), dtype=np.uint8)
    raw = usable(codec, raw, any_halves(rng, 8), any_halves(rng, 8))
    wanted = dequantize(raw, GGMLQuantizationType[name])
    assert np.array_equal(unpack(codec, raw).weights().view(np.uint32), wanted.view(np.uint32))


@pytest.mark.parametrize("name", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
def test_blocks_of_a_quantizer_come_back(name: str) -> None:
    weights = np.random.default_rng(0).standard_normal((16, 256)).astype(np.float32)
    raw = quantize(weights, GGMLQuantizationType[name])
    blocks = unpack(CODECS[name], raw)
    assert np.array_equal(pack(blocks), raw.reshape(-1, CODECS[name].size))
    assert np.isin(blocks.level, CODECS[name].grid).all()
    assert np.abs(blocks.weights().reshape(weights.shape) - weights).max() < 0.3


@pytest.mark.parametrize("name", ["MXFP4", "NVFP4"])
def test_scales_of_four_bit_floats_come_back(name: str) -> None:
    raw = np.random.default_rng(1).integers(0, 256, (64, CODECS[name].size), dtype=np.uint8)
    codec, field = CODECS[name], CODECS[name].scale
    assert field is not None
    scales = np.array(field.sorted_values, np.float32)
    assert len(scales) == (256 if name == "MXFP4" else 127)
    blocks = unpack(codec, raw)
    for n in range(len(scales) - blocks.scale.shape[1]):
        blocks.scale[:] = scales[n : n + blocks.scale.shape[1]]
        assert np.array_equal(unpack(codec, pack(blocks)).scale, blocks.scale)


@pytest.mark.parametrize("name", CODEBOOKS)
def test_a_codebook_has_each_word_once_and_its_signs(name: str) -> None:
    book = CODECS[name].level
    assert isinstance(book, Codebook)
    assert len(np.unique(book.words, axis=0)) == len(book.words) == len(book.index.values)
    assert book.words.min() > 0
    assert book.n_levels == CODECS[name].block
    assert CODECS[name].sub % book.unit == 0
    levels = unpack(
        CODECS[name], np.random.default_rng(0).integers(0, 256, (64, CODECS[name].size), dtype=np.uint8)
    ).level
    odd = (levels.reshape(-1, 8) < 0).sum(1) % 2
    assert odd.any() != book.is_even


@pytest.mark.parametrize("name", NAMES)
def test_every_field_moves_the_weights(name: str) -> None:
    """A field read from the wrong bits would still come back; it would not do what its name says."""
    codec = CODECS[name]
    raw = np.random.default_rng(1).integers(0, 256, (1, codec.size), dtype=np.uint8)
    raw = usable(codec, raw, *(np.array([value], np.float16).view(np.uint8) for value in (0.5, 0.25)))
    blocks = unpack(codec, raw)
    before = blocks.weights().reshape(-1, codec.sub)
    if codec.scale and blocks.scale.shape[1] > 1:
        values = codec.scale.sorted_values
        blocks.scale[0, 1] = values[3] if blocks.scale[0, 1] != values[3] else values[2]
        changed = dequantize(pack(blocks), GGMLQuantizationType[name]).reshape(-1, codec.sub)
        assert np.flatnonzero((changed != before).any(axis=1)).tolist() == [1]
    blocks = unpack(codec, raw)
    unit = slice(codec.block - codec.unit, codec.block)
    if codec.unit == 1:
        blocks.level[0, unit] = codec.grid[0] if blocks.level[0, -1] != codec.grid[0] else codec.grid[1]
    else:
        blocks.level[0, unit] *= -1
    changed = dequantize(pack(blocks), GGMLQuantizationType[name]).reshape(-1)
    steps = np.repeat(blocks.steps.reshape(-1), codec.block // blocks.steps.size)
    moved = np.flatnonzero(changed != before.reshape(-1)).tolist()
    assert moved == (list(range(codec.block))[unit] if steps[-1] != 0 else [])
