"""A checkpoint of a published model's shape with random weights and a real vocabulary: for timing, not for talking."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ggufkit.llama.gguf import read_header

QWEN25_05B: dict[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_size": 896, "intermediate_size": 4864,
    "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2, "vocab_size": 151936,
    "max_position_embeddings": 32768, "rms_norm_eps": 1e-6, "rope_theta": 1000000.0, "hidden_act": "silu",
    "tie_word_embeddings": True, "torch_dtype": "bfloat16", "bos_token_id": 151643, "eos_token_id": 151645,
    "use_sliding_window": False,
}  # fmt: skip
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)
_CONTROL, _USER_DEFINED, _UNUSED = 3, 4, 5


def write_checkpoint(path: Path, vocabulary: Path, config: dict[str, Any] = QWEN25_05B) -> Path:
    """Write config.json, tokenizer.json and random bf16 weights.

    Args:
        vocabulary: `ggml-vocab-qwen2.gguf` of llama.cpp's source.
    """
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(config))
    (path / "tokenizer.json").write_text(json.dumps(tokenizer_json(vocabulary)), encoding="utf-8")
    (path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "Qwen2Tokenizer"}))
    _write_weights(path / "model.safetensors", config)
    return path


def tokenizer_json(vocabulary: Path, split: str = _SPLIT) -> dict[str, Any]:
    """A tokenizer.json with the tokens and merges of a llama.cpp vocabulary file."""
    meta = read_header(vocabulary).metadata
    tokens, kinds, merges = (meta[f"tokenizer.ggml.{key}"] for key in ("tokens", "token_type", "merges"))
    assert isinstance(tokens, list)
    assert isinstance(kinds, list)
    assert isinstance(merges, list)
    typed = [(i, str(token), kind) for i, (token, kind) in enumerate(zip(tokens, kinds, strict=True))]
    added = [
        {"id": i, "content": token, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
         "special": kind == _CONTROL}
        for i, token, kind in typed if kind in (_CONTROL, _USER_DEFINED)
    ]  # fmt: skip
    pre = [
        {"type": "Split", "pattern": {"Regex": split}, "behavior": "Isolated", "invert": False},
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
    ]
    model = {
        "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
        "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
        "vocab": {token: i for i, token, kind in typed if kind not in (_CONTROL, _USER_DEFINED, _UNUSED)},
        "merges": [str(merge).split(" ") for merge in merges],
    }  # fmt: skip
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": pre}, "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": model,
    }  # fmt: skip


def _write_weights(path: Path, config: dict[str, Any]) -> None:
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    width, inner = config["hidden_size"], config["intermediate_size"]
    kv = width // config["num_attention_heads"] * config["num_key_value_heads"]
    tensors = {"model.embed_tokens.weight": torch.randn(config["vocab_size"], width) * 0.02}
    tensors["model.norm.weight"] = torch.ones(width)
    for i in range(config["num_hidden_layers"]):
        layer = f"model.layers.{i}."
        shapes = {
            "self_attn.q_proj": (width, width), "self_attn.k_proj": (kv, width), "self_attn.v_proj": (kv, width),
            "self_attn.o_proj": (width, width), "mlp.gate_proj": (inner, width), "mlp.up_proj": (inner, width),
            "mlp.down_proj": (width, inner),
        }  # fmt: skip
        tensors |= {f"{layer}{name}.weight": torch.randn(shape) * 0.02 for name, shape in shapes.items()}
        tensors |= {f"{layer}self_attn.{n}_proj.bias": torch.zeros(width if n == "q" else kv) for n in "qkv"}
        tensors |= {f"{layer}{n}_layernorm.weight": torch.ones(width) for n in ("input", "post_attention")}
    save_file({name: tensor.to(torch.bfloat16) for name, tensor in tensors.items()}, path, {"format": "pt"})
