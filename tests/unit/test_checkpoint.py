"""Checkpoints: whole ones are described, damaged ones are refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ggufkit.core.errors import CheckpointError
from ggufkit.models.checkpoint import open_checkpoint, scan_weights, stored_tensors
from ggufkit.models.files import fingerprint
from tests import tiny
from tests.shared import LLAMA, QWEN2, needs_shared


def test_a_whole_checkpoint(checkpoint: Path) -> None:
    found = open_checkpoint(checkpoint)
    tensors = load_file(checkpoint / "model.safetensors")
    assert found.architecture == "LlamaForCausalLM"
    assert found.name == "tiny-llama"
    assert found.n_params == sum(t.size for t in tensors.values())
    assert found.tensor_bytes == sum(t.nbytes for t in tensors.values())
    assert scan_weights(checkpoint).largest == max(float(np.abs(t).max()) for t in tensors.values())


@needs_shared
def test_bfloat16_weights_are_read() -> None:
    assert open_checkpoint(LLAMA).n_params == 22_288_896
    assert open_checkpoint(QWEN2).n_params == 26_426_048
    widest = scan_weights(QWEN2)
    assert (widest.tensor, widest.largest) == ("model.norm.weight", 1.6953125)


def test_no_config(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has no config\.json"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("text", "reason"), [("{", "not valid JSON"), ("[]", "no JSON object"), ("{}", "names no arch")]
)
def test_bad_config(checkpoint: Path, text: str, reason: str) -> None:
    (checkpoint / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=reason):
        open_checkpoint(checkpoint)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    path = tiny.write_llama(tmp_path / "m", shards=3)
    assert open_checkpoint(path).n_params > 0
    (path / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"lacks model-00002-of-00003\.safetensors of 3 shards"):
        open_checkpoint(path)


def test_shards_without_an_index_tell_how_many_they_are(tmp_path: Path) -> None:
    path = tiny.write_llama(tmp_path / "m", shards=3)
    (path / "model.safetensors.index.json").unlink()
    assert len(list(stored_tensors(path))) == len(list(stored_tensors(tiny.write_llama(tmp_path / "whole"))))
    (path / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(CheckpointError, match="lacks model-00002-of-00003"):
        open_checkpoint(path)


@pytest.mark.parametrize("keep", [0, 7, 30, -1])
def test_a_truncated_shard_is_named(checkpoint: Path, keep: int) -> None:
    shard = checkpoint / "model.safetensors"
    shard.write_bytes(shard.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"model\.safetensors is (truncated|damaged)"):
        open_checkpoint(checkpoint)


def test_a_tensor_that_only_the_index_has(tmp_path: Path) -> None:
    path = tiny.write_llama(tmp_path / "m", shards=2)
    index = path / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    content["weight_map"]["ghost.weight"] = "model-00001-of-00002.safetensors"
    index.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=r"ghost\.weight"):
        open_checkpoint(path)


def test_pickled_weights_only(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").rename(checkpoint / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="no ") as caught:
        open_checkpoint(checkpoint)
    assert "pickled" in str(caught.value.hint)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_inf_are_named(checkpoint: Path, dtype: type, bad: float) -> None:
    shard = checkpoint / "model.safetensors"
    tensors = {name: t.astype(dtype) for name, t in load_file(shard).items()}
    tensors["model.layers.1.mlp.up_proj.weight"][3, 5] = bad
    save_file(tensors, shard)
    with pytest.raises(CheckpointError, match=r"model\.layers\.1\.mlp\.up_proj\.weight .*NaN or infinite"):
        scan_weights(checkpoint)


@pytest.mark.parametrize("bits", [0x7FC0, 0xFFC0, 0x7F80, 0xFF80])
def test_nan_and_inf_in_bfloat16(checkpoint: Path, bits: int) -> None:
    """safetensors' numpy has no bfloat16: the header of a half-precision file is rewritten."""
    shard = checkpoint / "model.safetensors"
    data = bytearray(shard.read_bytes())
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    start = header["lm_head.weight"]["data_offsets"][0]
    text = json.dumps(header).replace('"F16"', '"BF16"').encode()
    text += b" " * (-len(text) % 8)
    body = data[8 + size :]
    body[start : start + 2] = bits.to_bytes(2, "little")
    shard.write_bytes(len(text).to_bytes(8, "little") + text + body)
    with pytest.raises(CheckpointError, match=r"lm_head\.weight"):
        scan_weights(checkpoint)


def test_the_fingerprint_follows_every_file(checkpoint: Path, private_cache: Path) -> None:
    before = fingerprint(checkpoint)
    assert fingerprint(checkpoint) == before
    (checkpoint / "notes.log").write_text("no part of a conversion")
    assert fingerprint(checkpoint) == before
    (checkpoint / "README.md").write_text("license: mit")
    assert fingerprint(checkpoint) != before
