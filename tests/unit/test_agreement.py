"""config.json, tokenizer and weights speak of one model, or are refused by what can be told of any architecture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ggufkit.core.errors import CheckpointError, TokenizerError
from ggufkit.llama.losses import losses
from ggufkit.models.agreement import ids_of_images, require_agreement
from ggufkit.models.checkpoint import open_checkpoint
from tests.shared import LLAMA, QWEN2, needs_shared


def settings(path: Path, **changes: Any) -> dict[str, Any]:
    config = json.loads((path / "config.json").read_text()) | changes
    (path / "config.json").write_text(json.dumps(config))
    return dict(config)


def add_token(path: Path, content: str = "<|extra|>") -> int:
    """The tokenizer gets one more token, whose id is returned; the embedding stays as it is."""
    file, number = path / "tokenizer.json", settings(path)["vocab_size"]
    tokenizer = json.loads(file.read_text())
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    tokenizer["added_tokens"].append({"id": number, "content": content, **flags})
    file.write_text(json.dumps(tokenizer))
    return int(number)


def test_what_agrees(checkpoint: Path) -> None:
    shapes = require_agreement(checkpoint)
    assert shapes["model.norm.weight"] == (256,)


@pytest.mark.parametrize("method", ["awq", "bitsandbytes"])
def test_weights_that_no_converter_unpacks(checkpoint: Path, method: str) -> None:
    settings(checkpoint, quantization_config={"quant_method": method, "bits": 4})
    with pytest.raises(
        CheckpointError, match=rf"(?m)is quantized already: .* does not read {method}\.$"
    ) as caught:
        require_agreement(checkpoint)
    assert caught.value.hint == "Start from the original checkpoint in F32, F16 or BF16."


@pytest.mark.parametrize("told", [{"quant_method": "fp8"}, {"quant_method": "gptq"}, {}, None, 3])
def test_weights_that_a_converter_may_unpack(checkpoint: Path, told: object) -> None:
    settings(checkpoint, quantization_config=told)
    assert require_agreement(checkpoint)


@needs_shared
@pytest.mark.parametrize("model", [LLAMA, QWEN2], ids=lambda path: path.name)
def test_real_models_agree(model: Path) -> None:
    assert require_agreement(model)


def test_rows_without_tokens_are_padding(checkpoint: Path) -> None:
    """As in Qwen2.5, which has 151,936 rows for 151,665 tokens."""
    rows = settings(checkpoint)["vocab_size"] + 64
    tensors = load_file(checkpoint / "model.safetensors")
    wide = {name: np.resize(t, (rows, 256)) if len(t) == rows - 64 else t for name, t in tensors.items()}
    save_file(wide, checkpoint / "model.safetensors")
    settings(checkpoint, vocab_size=rows)
    assert require_agreement(checkpoint)["lm_head.weight"] == (rows, 256)


def test_a_token_beyond_the_vocabulary(checkpoint: Path) -> None:
    number = add_token(checkpoint)
    with pytest.raises(
        TokenizerError, match=rf"(?m)has the token '<\|extra\|>' with the id {number}; .* is {number}\.$"
    ) as caught:
        require_agreement(checkpoint)
    assert "The embedding was not resized when tokens were added" in str(caught.value.hint)
    assert caught.value.exit_code == 3


def test_a_token_that_stands_for_images(checkpoint: Path) -> None:
    """Gemma 3's text models share the tokenizer of those that see, and have no row for it."""
    add_token(checkpoint, "<image_soft_token>")
    assert require_agreement(checkpoint)
    number = ids_of_images(checkpoint)[0]
    log = f"ignore token {number}: id is out of range\nignore token {number + 1}: id is out of range\n"
    assert losses(log, ids_of_images(checkpoint)) == [f"the tokens {number + 1} (no rows for them)"]


@pytest.mark.parametrize("file", ["added_tokens.json", "tokenizer_config.json"])
def test_added_tokens_beyond_the_rows_of_a_sentencepiece_model(checkpoint: Path, file: str) -> None:
    """The converter leaves them out and says so in its log only."""
    number = settings(checkpoint)["vocab_size"]
    (checkpoint / "tokenizer.json").unlink()
    (checkpoint / "tokenizer.model").write_bytes(b"no model")
    said: dict[str, Any] = {"<|new|>": number}
    if file == "tokenizer_config.json":
        said = {"added_tokens_decoder": {str(number): {"content": "<|new|>"}}}
    (checkpoint / file).write_text(json.dumps(said))
    with pytest.raises(TokenizerError, match=rf"{file} has the token '<\|new\|>' with the id {number}"):
        require_agreement(checkpoint)
    assert require_agreement(checkpoint, allow_losses=True)


def template(path: Path, told: object, **files: str) -> None:
    """The chat template of tokenizer_config.json, and those in files by name."""
    config = path / "tokenizer_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"chat_template": told}))
    (path / "additional_chat_templates").mkdir(exist_ok=True)
    for name, text in files.items():
        where = "chat_template.jinja" if name == "default" else f"additional_chat_templates/{name}.jinja"
        (path / where).write_text(text)


def test_one_chat_template_in_two_places(checkpoint: Path) -> None:
    template(checkpoint, "A\n")
    assert require_agreement(checkpoint)
    template(checkpoint, "A\n", default="A")
    assert require_agreement(checkpoint)
    template(checkpoint, [{"name": "default", "template": "A"}, {"name": "rag", "template": "B"}], rag="B")
    assert require_agreement(checkpoint)


@pytest.mark.parametrize("told", ["OLD", None, [{"name": "rag", "template": "A"}], [3], {"default": "A"}], ids=str)
def test_two_chat_templates(checkpoint: Path, told: object) -> None:
    """transformers takes the file; the converter whatever tokenizer_config.json has, and be it nothing."""
    template(checkpoint, told, default="A")
    with pytest.raises(TokenizerError, match=r"chat_template\.jinja is not the chat template that") as caught:
        require_agreement(checkpoint)
    assert caught.value.exit_code == 3
    assert 'take "chat_template" out of tokenizer_config.json' in str(caught.value.hint)
    assert require_agreement(checkpoint, allow_losses=True)


def test_a_further_chat_template_that_would_be_lost(checkpoint: Path) -> None:
    template(checkpoint, "A", default="A", tool_use="B")
    with pytest.raises(
        TokenizerError, match=r"tool_use\.jinja is not the chat template that tokenizer_config\.json has"
    ):
        require_agreement(checkpoint)
    (checkpoint / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(TokenizerError, match=r"chat_template\.jinja is not UTF-8\."):
        require_agreement(checkpoint)


@needs_shared
def test_pieces_beyond_the_rows(checkpoint: Path) -> None:
    (checkpoint / "tokenizer.json").unlink()
    (checkpoint / "tokenizer.model").write_bytes((LLAMA / "tokenizer.model").read_bytes())
    with pytest.raises(TokenizerError, match=r"tokenizer\.model has the token '' with the id"):
        require_agreement(checkpoint)


def test_a_vocabulary_above_the_rows(checkpoint: Path) -> None:
    rows = add_token(checkpoint)
    settings(checkpoint, vocab_size=rows + 1)
    with pytest.raises(
        CheckpointError, match=rf"(?m)model\.embed_tokens\.weight .* has {rows} rows where .* of {rows + 1}\.$"
    ):
        require_agreement(checkpoint)


def test_layers_that_are_not_there(checkpoint: Path) -> None:
    settings(checkpoint, num_hidden_layers=60_000)
    with pytest.raises(
        CheckpointError, match=r"(?m)no weights for layers that its config\.json has: 2, 3, 4, 5 …\.$"
    ):
        require_agreement(checkpoint)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("rms_norm_eps", float("nan")),
        ("rms_norm_eps", -1e-6),
        ("rope_theta", float("inf")),
        ("rope_theta", 0),
        ("hidden_size", -256),
        ("hidden_size", 1e300),
        ("num_hidden_layers", 10**9),
        ("num_hidden_layers", 2.5),
        ("vocab_size", 1 << 62),
        ("num_key_value_heads", [2, -1]),
        ("rope_scaling", {"factor": float("nan")}),
        ("layers", [{"hidden_size": -1}]),
    ],
)
def test_numbers_that_no_model_has(checkpoint: Path, key: str, value: object) -> None:
    settings(checkpoint, **{key: value})
    with pytest.raises(
        CheckpointError, match=rf"config\.json says that {key}.* is .*, which no model has"
    ) as caught:
        open_checkpoint(checkpoint)
    assert caught.value.exit_code == 3


def test_numbers_that_models_do_have(checkpoint: Path) -> None:
    odd = {"time_step_limit": [0.0, float("inf")], "sliding_window": -1, "num_experts": 0, "head_dim": None}
    settings(checkpoint, **odd, quantization=None, use_cache=True, intermediate_size=512.0)
    assert open_checkpoint(checkpoint).n_params


@pytest.mark.parametrize("text", ["[1]", '{"model": {"vocab": {"a": "b"}}}', '{"added_tokens": [{}]}', "{"])
def test_a_tokenizer_of_another_shape(checkpoint: Path, text: str) -> None:
    (checkpoint / "tokenizer.json").write_text(text)
    with pytest.raises(TokenizerError, match=r"tokenizer\.json is not"):
        require_agreement(checkpoint)
