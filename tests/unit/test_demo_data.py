"""The demo model in the package is sound, learned something, and is what its script makes."""

from __future__ import annotations

import importlib
import json
import math
from pathlib import Path
from types import ModuleType
from typing import Any

import jinja2
import numpy as np
import numpy.typing as npt
import pytest
from safetensors import safe_open
from tokenizers import Tokenizer

from ggufkit import demo

Array = npt.NDArray[Any]
Weights = dict[str, Array]

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
SUPER_BLOCK = 256
CHUNK = 512
NASTY = [
    "", " ", "\n", "\r\n", "\t\t  x", "   three", "a\u00a0b", "I'll can't we've", "1234567890", "3.14e-10",
    "naïve café", "Ünïcödé", "日本語のテキスト", "한국어", "привет", "🦊🫖👩‍👩‍👧", "e\u0301", "\u200b", "\x00", "“quoted”",
]  # fmt: skip


def config() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((demo.checkpoint() / "config.json").read_text())
    return loaded


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return Tokenizer.from_file(str(demo.checkpoint() / "tokenizer.json"))


@pytest.fixture(scope="module")
def weights() -> Weights:
    """The tensors in float32: bf16 is the upper half of it, and NumPy has no bf16."""
    raw = (demo.checkpoint() / "model.safetensors").read_bytes()
    size = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + size])
    del header["__metadata__"]
    tensors = {}
    for name, entry in header.items():
        start, stop = entry["data_offsets"]
        bits = np.frombuffer(raw[8 + size + start : 8 + size + stop], "<u2").astype("<u4") << 16
        tensors[name] = bits.view("<f4").reshape(entry["shape"])
    return tensors


@pytest.fixture
def demo_text(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    if not SCRIPTS.is_dir():
        pytest.skip("scripts/ is not beside the tests")
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module("demo_text")


def norm(x: Array, weight: Array) -> Array:
    scale: Array = x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + config()["rms_norm_eps"])
    return scale * weight


def rotate(x: Array, theta: float) -> Array:
    """Rotary positions for x, shape (heads, positions, head_dim)."""
    half = x.shape[-1] // 2
    angles = np.outer(np.arange(x.shape[1]), theta ** (-np.arange(half) / half))
    cos, sin = (np.concatenate([f(angles)] * 2, axis=-1) for f in (np.cos, np.sin))
    rotated: Array = x * cos + np.concatenate([-x[..., half:], x[..., :half]], axis=-1) * sin
    return rotated


def attention(x: Array, layer: Weights) -> Array:
    settings = config()
    q, k, v = (
        (x @ layer[f"self_attn.{name}_proj.weight"].T).reshape(len(x), -1, settings["head_dim"]).swapaxes(0, 1)
        for name in "qkv"
    )
    q, k = rotate(q, settings["rope_theta"]), rotate(k, settings["rope_theta"])
    k, v = (np.repeat(t, len(q) // len(t), axis=0) for t in (k, v))
    scores = q @ k.swapaxes(1, 2) / math.sqrt(settings["head_dim"]) + np.triu(np.full((len(x), len(x)), -1e9), 1)
    shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
    mixed: Array = (shares / shares.sum(axis=-1, keepdims=True)) @ v
    attended: Array = mixed.swapaxes(0, 1).reshape(len(x), -1) @ layer["self_attn.o_proj.weight"].T
    return attended


def negative_log_likelihood(weights: Weights, ids: Array) -> float:
    """Nats per token of one chunk under the Llama of `weights`."""
    x = weights["model.embed_tokens.weight"][ids]
    for n in range(config()["num_hidden_layers"]):
        prefix = f"model.layers.{n}."
        layer = {k.removeprefix(prefix): w for k, w in weights.items() if k.startswith(prefix)}
        x = x + attention(norm(x, layer["input_layernorm.weight"]), layer)
        h = norm(x, layer["post_attention_layernorm.weight"])
        gate, up = (h @ layer[f"mlp.{name}_proj.weight"].T for name in ("gate", "up"))
        x = x + (gate / (1 + np.exp(-gate)) * up) @ layer["mlp.down_proj.weight"].T
    logits = norm(x, weights["model.norm.weight"])[:-1] @ weights["model.embed_tokens.weight"].T
    logits = logits - logits.max(axis=-1, keepdims=True)
    chosen = logits[np.arange(len(logits)), ids[1:]] - np.log(np.exp(logits).sum(axis=-1))
    return -float(chosen.mean())


def test_it_stays_small() -> None:
    root = demo.evaluation_text().parent
    assert sum(file.stat().st_size for file in root.rglob("*") if file.is_file()) <= 4_500_000


def test_real_k_quants_apply_to_every_matrix() -> None:
    with safe_open(demo.checkpoint() / "model.safetensors", framework="numpy") as tensors:
        slices = {name: tensors.get_slice(name) for name in tensors.keys()}  # noqa: SIM118 - not a mapping
    assert {piece.get_dtype() for piece in slices.values()} == {"BF16"}
    rows = {name: piece.get_shape()[-1] for name, piece in slices.items()}
    assert [name for name, width in rows.items() if width % SUPER_BLOCK] == []


def test_the_configuration_can_be_read_by_old_and_new_readers() -> None:
    settings = config()
    assert settings["architectures"] == ["LlamaForCausalLM"]
    assert settings["rope_theta"] == 10000.0
    assert settings["torch_dtype"] == "bfloat16"


def test_the_tokenizer_is_gpt2_style_and_loses_nothing(tokenizer: Any) -> None:
    section = json.loads(tokenizer.to_str())["pre_tokenizer"]
    assert (section["type"], section["use_regex"], section["add_prefix_space"]) == ("ByteLevel", True, False)
    assert tokenizer.get_vocab_size() == config()["vocab_size"]
    assert [tokenizer.decode(tokenizer.encode(text).ids) for text in NASTY] == NASTY


def test_the_chat_template_gives_control_tokens(tokenizer: Any) -> None:
    settings = json.loads((demo.checkpoint() / "tokenizer_config.json").read_text())
    messages = [{"role": "user", "content": "Hello!"}]
    prompt = jinja2.Template(settings["chat_template"]).render(messages=messages, add_generation_prompt=True)
    assert prompt == "<|im_start|>user\nHello!<|im_end|>\n<|im_start|>assistant\n"
    ids = tokenizer.encode(prompt).ids
    start, end = (tokenizer.token_to_id(token) for token in ("<|im_start|>", "<|im_end|>"))
    assert (ids.count(start), ids.count(end)) == (2, 1)
    assert settings["eos_token"] == "<|im_end|>"
    assert config()["eos_token_id"] == end


@pytest.mark.parametrize("text", [demo.evaluation_text, demo.calibration_text])
def test_texts_are_long_enough(tokenizer: Any, text: Any) -> None:
    assert len(tokenizer.encode(text().read_text(encoding="utf-8")).ids) >= 40 * CHUNK


def test_evaluation_and_calibration_share_no_passage() -> None:
    evaluation, calibration = (
        path.read_text(encoding="utf-8").split() for path in (demo.evaluation_text(), demo.calibration_text())
    )
    windows = {tuple(calibration[i : i + 24]) for i in range(len(calibration) - 23)}
    assert not any(tuple(evaluation[i : i + 24]) in windows for i in range(len(evaluation) - 23))


def test_the_texts_are_what_the_generator_writes(demo_text: ModuleType) -> None:
    assert demo_text.calibration_text() == demo.calibration_text().read_text(encoding="utf-8")
    assert demo_text.evaluation_text() == demo.evaluation_text().read_text(encoding="utf-8")


def test_the_weights_are_finite(weights: Weights) -> None:
    assert [name for name, weight in weights.items() if not np.isfinite(weight).all()] == []


def test_the_model_knows_its_world(tokenizer: Any, weights: Weights) -> None:
    ids = tokenizer.encode(demo.evaluation_text().read_text(encoding="utf-8")).ids[: 4 * CHUNK]
    chunks = np.array(ids).reshape(4, CHUNK)
    perplexity = math.exp(np.mean([negative_log_likelihood(weights, chunk) for chunk in chunks]))
    assert 2 < perplexity < 8
