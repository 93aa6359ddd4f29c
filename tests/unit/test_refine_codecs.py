"""Block layouts: every bit has its place, and the weights are gguf's own to the last bit."""

from __future__ import annotations

import numpy as np
import pytest
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize, quantize
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ggufkit.refine.codecs import CODECS, pack, unpack

NAMES = sorted(CODECS)
FINITE = np.arange(1 << 16, dtype=np.uint16)[np.isfinite(np.arange(1 << 16, dtype=np.uint16).view(np.float16))]


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
    assert np.array_equal(pack(unpack(codec, raw)), raw)


@pytest.mark.parametrize("name", NAMES)
@given(seed=st.integers(0, 1 << 32))
@settings(max_examples=25, deadline=None)
def test_weights_are_gguf_s_to_the_bit(name: str, seed: int) -> None:
    codec, rng = CODECS[name], np.random.default_rng(seed)
    raw = rng.integers(0, 256, (8, codec.size), dtype=np.uint8)
    for at in (codec.d,) if codec.dmin is None else (codec.d, codec.dmin):
        raw[:, at : at + 2] = rng.choice(FINITE, (8, 1)).view(np.uint8)
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


@pytest.mark.parametrize("name", NAMES)
def test_every_field_moves_the_weights(name: str) -> None:
    """A field read from the wrong bits would still come back; it would not do what its name says."""
    codec = CODECS[name]
    raw = np.random.default_rng(1).integers(0, 256, (1, codec.size), dtype=np.uint8)
    raw[:, codec.d : codec.d + 2] = np.array([0.5], np.float16).view(np.uint8)
    if codec.dmin is not None:
        raw[:, codec.dmin : codec.dmin + 2] = np.array([0.25], np.float16).view(np.uint8)
    blocks = unpack(codec, raw)
    before = blocks.weights().reshape(-1, codec.sub)
    if codec.scale:
        blocks.scale[0, 1] = 3 if blocks.scale[0, 1] != 3 else 2
        changed = dequantize(pack(blocks), GGMLQuantizationType[name]).reshape(-1, codec.sub)
        assert np.flatnonzero((changed != before).any(axis=1)).tolist() == [1]
    blocks = unpack(codec, raw)
    blocks.level[0, codec.block - 1] = codec.grid[0] if blocks.level[0, -1] != codec.grid[0] else codec.grid[1]
    changed = dequantize(pack(blocks), GGMLQuantizationType[name]).reshape(-1)
    steps = np.repeat(blocks.steps.reshape(-1), codec.block // blocks.steps.size)
    moved = np.flatnonzero(changed != before.reshape(-1)).tolist()
    assert moved == ([codec.block - 1] if steps[-1] != 0 else [])
