"""Quantized checkpoints from end to end: the base computes what transformers does with the checkpoint, and it is said."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import ggufkit
from ggufkit.core.errors import CheckpointError
from ggufkit.core.manifest import read_manifest
from ggufkit.llama.gguf import read_header
from ggufkit.steps.convert import ConvertNotes
from tests import quantized, tiny

LAYER = "model.layers.0.mlp.down_proj"


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_llama(tmp_path_factory.mktemp("plain") / "model", width=128, layers=1)


@pytest.mark.parametrize(
    ("way", "title"),
    [("fp8-blocks", "FP8 in blocks of 64 × 128"), ("ct-int4-zeros", "INT4 by compressed-tensors")],
)
def test_a_base_has_the_numbers_of_its_checkpoint(
    way: str, title: str, plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first is read by the converter, the second is made one of floats in the cache."""
    dense = quantized.write(plain, tmp_path / "model", way)
    made = ggufkit.convert(tmp_path / "model", out=tmp_path / "out").paths[0]
    manifest = read_manifest(made)
    assert manifest is not None
    notes = ConvertNotes.from_manifest(manifest)
    assert notes.quantized == title
    assert notes.logit_difference is not None
    assert notes.logit_difference < 1e-3
    tensor = read_header(made).by_name["blk.0.ffn_down.weight"]
    stored = np.fromfile(made, np.float16, tensor.n_elements, offset=tensor.offset).reshape(tensor.shape[::-1])
    assert np.array_equal(stored, dense[f"{LAYER}.weight"].numpy().astype(np.float16))


def test_a_missing_scale_is_one_message(plain: Path, tmp_path: Path) -> None:
    quantized.write(plain, tmp_path / "model", "fp8-blocks")
    quantized.change(tmp_path / "model", lambda tensors: tensors.__delitem__(f"{LAYER}.weight_scale_inv"))
    with pytest.raises(
        CheckpointError, match=f"{LAYER}.weight cannot be read: it has no {LAYER}.weight_scale_inv"
    ):
        ggufkit.convert(tmp_path / "model", out=tmp_path / "out")
    assert json.loads((tmp_path / "model" / "config.json").read_text())["quantization_config"]
