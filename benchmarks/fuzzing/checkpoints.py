"""Checkpoints: weights, their index, configuration, tokenizer."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.fuzzing.hubs import mutate_header
from benchmarks.fuzzing.mutate import mutate_json
from benchmarks.fuzzing.reader import Reader, of_file, of_part
from ggufkit.llama.pretokenizers import identify
from ggufkit.modelfile import proving
from ggufkit.models import lora
from ggufkit.models.agreement import require_agreement
from ggufkit.models.checkpoint import open_checkpoint, read_config, stored_tensors
from ggufkit.models.peft_merge import WEIGHTS
from ggufkit.models.token_ids import probes_for
from ggufkit.texts.calibration import load_tokenizer
from tests import tiny

_ADAPTER = {
    "peft_type": "LORA",
    "r": 8,
    "lora_alpha": 16,
    "target_modules": ["q_proj"],
    "base_model_name_or_path": "a/b",
}
_GENERATION = {"temperature": 0.6, "top_k": 20, "do_sample": True, "eos_token_id": [1, 2]}


def readers(home: Path) -> list[Reader]:
    """The files of a checkpoint, each among whole others."""
    whole = tiny.write_llama(home / "whole", width=64, layers=1)
    parts = tiny.write_llama(home / "parts", width=64, layers=1, shards=2)
    shard, index, config = "model.safetensors", "model.safetensors.index.json", "config.json"
    weights, generation = (whole / shard).read_bytes(), json.dumps(_GENERATION).encode()
    tokenizer = [(whole / "tokenizer.json").read_bytes()]
    adapter = [json.dumps(_ADAPTER).encode()]
    return [
        Reader("adapter", adapter, of_file(_adapter, "adapter_config.json"), mutate_json),
        Reader("safetensors", [weights, weights[:9000]], of_part(whole, shard, _tensors), mutate_header, 2),
        Reader("index", [(parts / index).read_bytes()], of_part(parts, index, _tensors), mutate_json, 2),
        Reader("config", [(whole / config).read_bytes()], of_part(whole, config, _config), mutate_json, 2),
        Reader("tokenizer", tokenizer, of_file(identify, "tokenizer.json"), mutate_json),
        Reader("tokens", tokenizer, of_part(whole, "tokenizer.json", _tokens), mutate_json, 0.3),
        Reader("generation", [generation], of_file(_generation, "generation_config.json"), mutate_json, 0.5),
    ]


def _adapter(file: Path) -> None:
    (file.parent / WEIGHTS).write_bytes((2).to_bytes(8, "little") + b"{}")
    try:
        lora.read_adapter(file.parent)
    finally:
        (file.parent / WEIGHTS).unlink()


def _tensors(path: Path) -> None:
    for tensor in stored_tensors(path):
        assert 0 <= tensor.start <= tensor.end <= tensor.file.stat().st_size
        assert all(isinstance(n, int) and n >= 0 for n in tensor.shape)


def _config(path: Path) -> None:
    read_config(path)
    open_checkpoint(path)
    require_agreement(path)


def _tokens(path: Path) -> None:
    probes_for(path)
    load_tokenizer(path).encode(["a b"])


def _generation(file: Path) -> None:
    proving._generation(file.parent)
