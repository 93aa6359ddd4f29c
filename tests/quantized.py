"""Tiny checkpoints in the ways that published ones are quantized, with the weights that they hold."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

Made = tuple[dict[str, torch.Tensor], torch.Tensor]
"""The parts of a matrix by the ends of their names, and its weight in float32."""

_F8 = torch.float8_e4m3fn


def write(source: Path, path: Path, how: str) -> dict[str, torch.Tensor]:
    """Quantize the matrices in the layers of a checkpoint; returns all weights as they are to be read."""
    make, settings = WAYS[how]
    shutil.copytree(source, path)
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"quantization_config": settings}))
    dense, saved = {}, {}
    for name, tensor in load_file(source / "model.safetensors").items():
        dense[name] = saved[name] = tensor
        if ".layers." in name and tensor.ndim == 2 and not name.endswith("mlp.gate.weight"):
            del saved[name]
            parts, dense[name] = make(tensor.float())
            stem = name.removesuffix(".weight")
            saved |= {f"{stem}.{end}": part.contiguous() for end, part in parts.items()}
    save_file(saved, path / "model.safetensors", {"format": "pt"})
    return dense


def change(path: Path, edit: Callable[[dict[str, torch.Tensor]], None]) -> None:
    """Damage the tensors of a checkpoint."""
    tensors = load_file(path / "model.safetensors")
    edit(tensors)
    save_file(tensors, path / "model.safetensors", {"format": "pt"})


def _fp8(block: tuple[int, int], scale: str, *, inputs: bool = False) -> Callable[[torch.Tensor], Made]:
    def make(weight: torch.Tensor) -> Made:
        rows, columns = (size or n for size, n in zip(block, weight.shape, strict=True))
        largest = _largest(weight, rows, columns)
        scales = (largest / 448).to(torch.float32)
        spread = _spread(scales, weight, rows, columns)
        codes = (weight / spread).clamp(-448, 448).to(_F8)
        kept = scales.reshape(1) if block == (0, 0) else scales
        more = {"input_scale": torch.tensor([0.01])} if inputs else {}
        return {"weight": codes, scale: kept, **more}, codes.float() * spread

    return make


def _integers(bits: int, group: int, *, packed: bool, zeros: bool = False) -> Callable[[torch.Tensor], Made]:
    """As compressed-tensors has them: one by one, or in words."""

    def make(weight: torch.Tensor) -> Made:
        size, half = group or weight.shape[1], 1 << (bits - 1)
        low = _fold(weight, size).amin(-1) if zeros else -_largest(weight, 1, size)
        high = _fold(weight, size).amax(-1) if zeros else _largest(weight, 1, size)
        scales = ((high - low) / (2 * half - 1)).to(torch.bfloat16).float()
        offset = (-low / scales).round().clamp(0, 2 * half - 1) - half if zeros else torch.zeros_like(scales)
        spread, shift = (_spread(one, weight, 1, size) for one in (scales, offset))
        codes = (weight / spread + shift).round().clamp(-half, half - 1)
        dense = (codes - shift) * spread
        if not packed:
            return {"weight": codes.to(torch.int8), "weight_scale": scales.bfloat16()}, dense
        shape = torch.tensor(weight.shape, dtype=torch.int64)
        parts = {
            "weight_packed": _words(codes + half, bits),
            "weight_shape": shape,
            "weight_scale": scales.bfloat16(),
        }
        if zeros:
            parts["weight_zero_point"] = _words((offset + half).T, bits).T
        return parts, dense

    return make


def _bitsandbytes(weight: torch.Tensor, *, nested: bool = False) -> Made:
    from bitsandbytes import functional

    packed, state = functional.quantize_4bit(weight, quant_type="nf4", compress_statistics=nested)
    parts = {f"weight.{name}": part for name, part in state.as_dict(packed=True).items()}
    return {"weight": packed, **parts}, functional.dequantize_4bit(packed, state)


def _int8(weight: torch.Tensor) -> Made:
    largest = weight.abs().amax(1)
    codes = (weight / largest[:, None] * 127).round().to(torch.int8)
    parts = {"weight": codes, "SCB": largest, "weight_format": torch.tensor(0, dtype=torch.uint8)}
    return parts, codes.float() * (largest / 127)[:, None]


def _fold(weight: torch.Tensor, size: int) -> torch.Tensor:
    return weight.reshape(len(weight), -1, size)


def _largest(weight: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    padded = torch.nn.functional.pad(weight.abs(), (0, -weight.shape[1] % columns, 0, -weight.shape[0] % rows))
    return padded.reshape(padded.shape[0] // rows, rows, -1, columns).amax((1, 3))


def _spread(scales: torch.Tensor, weight: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    return scales.repeat_interleave(rows, 0).repeat_interleave(columns, 1)[: weight.shape[0], : weight.shape[1]]


def _words(values: torch.Tensor, bits: int) -> torch.Tensor:
    per = 32 // bits
    padded = torch.nn.functional.pad(values.long(), (0, -values.shape[1] % per)).reshape(len(values), -1, per)
    words = sum(padded[:, :, i] << (bits * i) for i in range(per))
    return torch.as_tensor(words).to(torch.int32)


def _compressed(
    layout: str, weights: Mapping[str, Any], inputs: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    group = {"targets": ["Linear"], "weights": dict(weights), "input_activations": inputs}
    return {
        "quant_method": "compressed-tensors", "format": layout, "config_groups": {"group_0": group},
        "ignore": ["lm_head"], "quantization_status": "compressed",
    }  # fmt: skip


_INT4 = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 32}
_INT8 = {"num_bits": 8, "type": "int", "symmetric": True}
_FP8 = {"num_bits": 8, "type": "float", "symmetric": True}
_NF4 = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}

WAYS: dict[str, tuple[Callable[[torch.Tensor], Made], dict[str, Any]]] = {
    "fp8-blocks": (
        _fp8((64, 128), "weight_scale_inv"),
        {"quant_method": "fp8", "weight_block_size": [64, 128], "activation_scheme": "dynamic"},
    ),
    "fp8-tensor": (
        _fp8((0, 0), "weight_scale_inv"),
        {"quant_method": "fp8", "weight_block_size": None, "activation_scheme": "dynamic"},
    ),
    "ct-fp8-tensor": (
        _fp8((0, 0), "weight_scale", inputs=True),
        _compressed("float-quantized", {**_FP8, "strategy": "tensor"}, {**_FP8, "strategy": "tensor", "dynamic": False}),
    ),
    "ct-fp8-block": (
        _fp8((64, 64), "weight_scale"),
        _compressed("float-quantized", {**_FP8, "strategy": "block", "block_structure": [64, 64]}),
    ),
    "ct-int8": (
        _integers(8, 0, packed=False),
        _compressed("int-quantized", {**_INT8, "strategy": "channel"}, {**_INT8, "strategy": "token", "dynamic": True}),
    ),
    "ct-int4": (_integers(4, 32, packed=True), _compressed("pack-quantized", _INT4)),
    "ct-int4-zeros": (
        _integers(4, 32, packed=True, zeros=True), _compressed("pack-quantized", {**_INT4, "symmetric": False}),
    ),
    "nf4": (_bitsandbytes, _NF4),
    "nf4-nested": (
        lambda weight: _bitsandbytes(weight, nested=True), {**_NF4, "bnb_4bit_use_double_quant": True},
    ),
    "int8": (_int8, {"quant_method": "bitsandbytes", "load_in_8bit": True}),
}  # fmt: skip
