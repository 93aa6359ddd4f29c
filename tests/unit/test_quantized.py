"""Checkpoints that hold other numbers than floats: who reads them, their weights, and what is wrong with damaged ones."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ggufkit.core.errors import CheckpointError, UsageError
from ggufkit.core.progress import SilentReporter
from ggufkit.core.records import Tensor
from ggufkit.llama.argv import Overrides
from ggufkit.llama.gguf import GgufHeader, carried_tensors, dominant_type
from ggufkit.models import dequantized, dequantizing, headers_only
from ggufkit.models.checkpoint import open_checkpoint, read_config, scan_weights, stored_tensors
from ggufkit.models.quantized.matrices import Matrix, scale_shape, split
from ggufkit.models.quantized.method import Quantized, Reader, find
from ggufkit.models.quantized.unpack import weight
from ggufkit.models.tensor_headers import StoredTensor
from ggufkit.steps import tensor_types
from tests import quantized, tiny

CONVERTER, GGUFKIT = Reader.CONVERTER, Reader.GGUFKIT
READERS = {
    "fp8-blocks": ("FP8 in blocks of 64 × 128", CONVERTER),
    "fp8-tensor": ("FP8", CONVERTER),
    "ct-fp8-tensor": ("FP8 by compressed-tensors", GGUFKIT),
    "ct-fp8-block": ("FP8 by compressed-tensors", CONVERTER),
    "ct-int8": ("INT8 by compressed-tensors", CONVERTER),
    "ct-int4": ("INT4 by compressed-tensors", CONVERTER),
    "ct-int4-zeros": ("INT4 by compressed-tensors", GGUFKIT),
    "nf4": ("NF4 by bitsandbytes", GGUFKIT),
    "nf4-nested": ("NF4 by bitsandbytes", GGUFKIT),
    "int8": ("INT8 by bitsandbytes", GGUFKIT),
}
DOWN = "model.layers.0.mlp.down_proj"


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_llama(tmp_path_factory.mktemp("plain") / "model", width=128, layers=1)


@pytest.mark.parametrize("way", list(quantized.WAYS))
def test_matrices_are_read_to_every_value(way: str, plain: Path, tmp_path: Path) -> None:
    if way.startswith("nf4"):
        pytest.importorskip("bitsandbytes")
    dense = quantized.write(plain, tmp_path / "model", way)
    opened, how = open_checkpoint(tmp_path / "model"), find(read_config(tmp_path / "model"))
    assert how is not None
    tensors = {t.name: t for t in stored_tensors(opened.path)}
    assert (how.title, how.reader(tensors)) == READERS[way]
    assert (opened.n_params, opened.quantized) == (open_checkpoint(plain).n_params, how.title)
    target = tmp_path / "floats"
    target.mkdir()
    assert dequantizing.main([str(opened.path), str(target)]) == 0
    dequantizing.copy_rest(opened.path, target)
    found = open_checkpoint(target)
    assert (found.quantized, found.n_params) == (None, opened.n_params)
    from safetensors.torch import load_file

    made = load_file(target / "model.safetensors")
    assert made.keys() == dense.keys()
    assert all(torch.equal(made[name].float(), dense[name].float()) for name in dense)
    header = dequantizing.headers(opened.path)["model.safetensors"]
    assert {name: tuple(entry["shape"]) for name, entry in header.items()} == {
        n: tuple(t.shape) for n, t in made.items()
    }


def _drop(name: str) -> Callable[[dict[str, torch.Tensor]], None]:
    return lambda tensors: tensors.__delitem__(name)


def _set(name: str, make: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[dict[str, torch.Tensor]], None]:
    return lambda tensors: tensors.update({name: make(tensors[name])})


@pytest.mark.parametrize(
    ("way", "edit", "said"),
    [
        ("fp8-blocks", _drop(f"{DOWN}.weight_scale_inv"), f"it has no {DOWN}.weight_scale_inv"),
        ("fp8-blocks", _set(f"{DOWN}.weight_scale_inv", lambda s: s[:1]), r"the shape \(1, 2\) where \(2, 2\) fits"),
        ("fp8-blocks", _drop(f"{DOWN}.weight"), "no matrix that this is of"),
        ("fp8-tensor", _set(f"{DOWN}.weight_scale_inv", lambda _: torch.ones(3)), r"where \(1, 1\) or \(128, 1\) fits"),
        ("ct-int4", _drop(f"{DOWN}.weight_scale"), f"it has no {DOWN}.weight_scale"),
        ("ct-int4", _set(f"{DOWN}.weight_shape", lambda s: s * 3), "words a row are not of 768 inputs"),
        ("ct-int8", _set(f"{DOWN}.weight_scale", lambda s: s[:5]), r"the shape \(5, 1\)"),
        ("int8", _drop(f"{DOWN}.SCB"), f"it has no {DOWN}.SCB"),
        ("int8", _set(f"{DOWN}.SCB", lambda s: s[:7]), r"the shape \(7,\) where \(128,\) fits"),
    ],
)  # fmt: skip
def test_a_missing_or_misshapen_scale_is_told_when_a_checkpoint_is_opened(
    way: str, edit: Callable[[dict[str, torch.Tensor]], None], said: str, plain: Path, tmp_path: Path
) -> None:
    quantized.write(plain, tmp_path / "model", way)
    quantized.change(tmp_path / "model", edit)
    with pytest.raises(CheckpointError, match=said) as caught:
        open_checkpoint(tmp_path / "model")
    assert DOWN in caught.value.message


@pytest.mark.parametrize(
    ("way", "part"),
    [("ct-fp8-tensor", "weight_scale"), ("ct-int4-zeros", "weight_scale"), ("int8", "SCB"), ("ct-fp8-tensor", "weight")],
)  # fmt: skip
def test_a_scale_that_is_no_number_is_named(
    way: str, part: str, plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def damage(tensor: torch.Tensor) -> torch.Tensor:
        return torch.cat([torch.tensor([math.nan]).to(tensor.dtype), tensor.flatten()[1:]]).reshape(tensor.shape)

    quantized.write(plain, tmp_path / "model", way)
    quantized.change(tmp_path / "model", _set(f"{DOWN}.{part}", damage))
    (tmp_path / "floats").mkdir()
    assert dequantizing.main([str(tmp_path / "model"), str(tmp_path / "floats")]) == 3
    assert f"{DOWN}.{part} holds NaN" in capsys.readouterr().err


def test_eight_bits_that_are_no_number_are_found_where_the_converter_reads_them(
    plain: Path, tmp_path: Path
) -> None:
    quantized.write(plain, tmp_path / "model", "fp8-blocks")
    scan_weights(tmp_path / "model")
    quantized.change(
        tmp_path / "model", _set(f"{DOWN}.weight", lambda w: torch.full(w.shape, math.nan).to(torch.float8_e4m3fn))
    )
    with pytest.raises(CheckpointError, match=f"{DOWN}.weight .* NaN"):
        scan_weights(tmp_path / "model")


@pytest.mark.parametrize(
    ("shape", "blocks", "scales"),
    [
        ((576, 200), (128, 128), (5, 2)), ((8, 64), (1, 32), (8, 2)), ((3, 256, 64), (128, 64), (3, 2, 1)),
        ((4, 6), (0, 0), (1, 1)),
    ],
)  # fmt: skip
def test_scales_of_blocks_that_end_before_their_edge(
    shape: tuple[int, ...], blocks: tuple[int, ...], scales: tuple[int, ...]
) -> None:
    assert scale_shape(shape, blocks) == scales
    values, of_blocks = torch.randint(-8, 8, shape, dtype=torch.int8), torch.rand(scales)
    stored = {
        role: StoredTensor(role, Path(), "I8", tuple(t.shape), 0, 0)
        for role, t in (("values", values), ("scales", of_blocks))
    }
    found = weight(
        Matrix("x", shape, "scaled", stored, blocks),
        {"values": values, "scales": of_blocks},
        Quantized("fp8", "FP8", {}),
    )
    whole = (1,) * (len(shape) - len(blocks)) + blocks
    for place in np.ndindex(shape):
        block = tuple(i // (b or n) for i, b, n in zip(place, whole, shape, strict=True))
        assert found[place] == values[place].float() * of_blocks[block]


def test_zero_points_that_borrow_are_left_to_no_converter(plain: Path, tmp_path: Path) -> None:
    """In GPTQ's first format a zero point of 0 is stored as -1: the converter would take it for 16."""
    zeros = torch.tensor([[0x77777777, 0x7777F777]], dtype=torch.int64).to(torch.int32)
    for name, words, borrows in (("sound", zeros[:, :1], False), ("borrows", zeros, True)):
        path = tiny.write_llama(tmp_path / name, width=64, layers=1)
        config = json.loads((path / "config.json").read_text())
        how = {"quant_method": "gptq", "bits": 4}
        (path / "config.json").write_text(json.dumps(config | {"quantization_config": how}))

        def pack(tensors: dict[str, torch.Tensor], words: torch.Tensor = words) -> None:
            del tensors[f"{DOWN}.weight"]
            n = 8 * words.shape[1]
            tensors |= {
                f"{DOWN}.qweight": torch.zeros(16, n, dtype=torch.int32), f"{DOWN}.qzeros": words.contiguous(),
                f"{DOWN}.scales": torch.ones(1, n, dtype=torch.float16),
                f"{DOWN}.g_idx": torch.zeros(128, dtype=torch.int32),
            }  # fmt: skip

        quantized.change(path, pack)
        found = find(read_config(path))
        assert found is not None
        reader = dequantized._reader(open_checkpoint(path), found)
        assert reader is (GGUFKIT if borrows else CONVERTER)


def test_blocks_of_mxfp4_must_have_scales_that_fit(plain: Path, tmp_path: Path) -> None:
    stem = "model.layers.0.mlp.experts.down_proj"
    path = tiny.write_llama(tmp_path / "model", width=64, layers=1)
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "mxfp4"}}))
    scales = torch.full((2, 64, 4), 120, dtype=torch.uint8)

    def damaged(of: torch.Tensor | None) -> str:
        def edit(tensors: dict[str, torch.Tensor]) -> None:
            tensors[f"{stem}_blocks"] = torch.zeros(2, 64, 4, 16, dtype=torch.uint8)
            tensors.pop(f"{stem}_scales", None)
            tensors |= {f"{stem}_scales": of} if of is not None else {}

        quantized.change(path, edit)
        try:
            dequantized.readable(open_checkpoint(path), SilentReporter())
        except CheckpointError as error:
            return error.message
        return ""

    assert damaged(scales) == ""
    assert f"it has no {stem}_scales" in damaged(None)
    assert "(2, 64, 3) where (2, 64, 4) fits" in damaged(scales[:, :, :3].contiguous())
    assert "holds NaN" in damaged(torch.full_like(scales, 255))


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"quant_method": "gptq", "bits": 3}, "INT3 by GPTQ"),
        ({"quant_method": "awq", "bits": 4, "version": "gemv"}, "not read: INT4 by AWQ"),
        ({"quant_method": "compressed-tensors", "config_groups": {}}, "numbers by compressed-tensors"),
    ],
)
def test_what_nobody_reads_is_refused_before_anything_runs(how: dict[str, Any], said: str, tmp_path: Path) -> None:
    path = tiny.write_llama(tmp_path / "model", width=64, layers=1)
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"quantization_config": how}))
    with pytest.raises(CheckpointError, match=said) as caught:
        dequantized.readable(open_checkpoint(path), SilentReporter())
    assert "compressed-tensors" in (caught.value.hint or "")


def test_a_checkpoint_that_only_says_so_is_not_made_floats(tmp_path: Path) -> None:
    path = tiny.write_llama(tmp_path / "model", width=64, layers=1)
    config = json.loads((path / "config.json").read_text())
    how = {"quant_method": "awq", "bits": 4}
    (path / "config.json").write_text(json.dumps(config | {"quantization_config": how}))
    assert not split(Quantized("awq", "", how), {t.name: t for t in stored_tensors(path)})[0]
    with pytest.raises(CheckpointError, match="quantized already"):
        dequantizing.n_bytes(path)


@pytest.mark.parametrize(
    ("embedding", "attention", "experts", "n_carried", "dominant"),
    [
        ("F16", "F16", "MXFP4", 1, "F16"),  # as gpt-oss is converted
        ("Q8_0", "Q8_0", "MXFP4", 0, "MXFP4"),  # as llama-quantize makes MXFP4_MOE
        ("F16", "Q4_K", "MXFP4", 0, "MXFP4"),
        ("MXFP4", "F16", "MXFP4", 0, "MXFP4"),
        ("F16", "F16", "Q4_K", 0, "Q4_K"),
        ("F16", "F16", "F16", 0, "F16"),
    ],
)
def test_blocks_of_a_checkpoint_are_told_from_what_was_quantized(
    embedding: str, attention: str, experts: str, n_carried: int, dominant: str
) -> None:
    types = {"token_embd": embedding, "blk.0.attn_q": attention, "blk.0.ffn_up_exps": experts}
    sizes = {"token_embd": 64, "blk.0.attn_q": 64, "blk.0.ffn_up_exps": 256}
    tensors = tuple(Tensor(f"{n}.weight", (sizes[n], 1), kind, 0, sizes[n], 0) for n, kind in types.items())
    header = GgufHeader(Path("x.gguf"), 3, {"general.architecture": "gpt-oss"}, tensors, 0, 32, 0)
    assert [t.name for t in carried_tensors(header)] == ["blk.0.ffn_up_exps.weight"][:n_carried]
    assert dominant_type(header) == dominant
    kept = tensor_types.keeping_carried(Overrides(tensor_types=(("attn_q", "q8_0"),)), header)
    assert len(kept.tensor_types) == 1 + n_carried
    assert kept.tensor_types[0] == ("attn_q", "q8_0")
    tensor_types.refuse_floats_of_carried(header, "Q4_K_M")
    with pytest.raises(UsageError, match="BF16 would make floats") if n_carried else nullcontext():
        tensor_types.refuse_floats_of_carried(header, "BF16")


@pytest.mark.parametrize("bits", [0, None, "four", [4]])
def test_a_config_that_tells_no_bits_is_one_message(bits: object) -> None:
    how = find({"quantization_config": {"quant_method": "gptq", "bits": bits}})
    assert how is not None
    parts = (("qweight", "I32"), ("qzeros", "I32"), ("scales", "F16"))
    tensors = {f"a.{name}": StoredTensor(f"a.{name}", Path("x"), dtype, (4, 4), 0, 1) for name, dtype in parts}
    with pytest.raises(CheckpointError, match="quantization_config of config"):
        split(how, tensors)


@pytest.mark.parametrize(
    ("method", "has"), [("bitsandbytes", True), ("compressed-tensors", True), ("fp8", False), (None, False)]
)
def test_of_which_checkpoints_headers_alone_tell_no_shapes(method: str | None, has: bool, tmp_path: Path) -> None:
    config = {"quantization_config": {"quant_method": method}} if method is not None else {}
    assert not headers_only._has_shapes_inside(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert headers_only._has_shapes_inside(tmp_path) == has
