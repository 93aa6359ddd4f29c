"""What config.json implies, by transformers' own rules: every architecture fits, and what does not is named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import dynamic_module_utils

from ggufkit.core.errors import CheckpointError, TokenizerError, UnsupportedArchitecture
from ggufkit.llama import implied
from ggufkit.llama.implied import Shape, require_implied
from ggufkit.llama.launcher import not_convertible, refuse_own_code
from ggufkit.models.agreement import require_agreement
from tests import tiny
from tests.shared import LLAMA, QWEN2, needs_shared

ARCHS = sorted((Path(__file__).resolve().parents[1] / "archs").glob("*.json"))


def shapes_of(path: Path) -> dict[str, Shape]:
    """What transformers would save of a model of this config.json, by its names."""
    config = transformers.AutoConfig.from_pretrained(path)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    return implied._saved(model)


@pytest.fixture
def llama(tmp_path: Path) -> tuple[Path, dict[str, Shape]]:
    path = tiny.write_llama(tmp_path / "llama")
    return path, dict(require_agreement(path))


def settings(path: Path, **changes: Any) -> None:
    config = json.loads((path / "config.json").read_text()) | changes
    (path / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("arch", ARCHS, ids=lambda f: f.stem)
def test_every_architecture_fits_itself_and_only_itself(tmp_path: Path, arch: Path) -> None:
    shutil.copy(arch, tmp_path / "config.json")
    shapes = shapes_of(tmp_path)
    require_implied(tmp_path, shapes)
    assert implied.misfits(tmp_path, shapes) == []
    for name in {
        "model.norm.weight",
        next(n for n in shapes if "down_proj" in n or ".w2." in n),
        next(n for n in shapes if "o_proj" in n),
    }:
        with pytest.raises(CheckpointError, match=f"has no {name}, which its config.json implies|{name} of .* is"):
            require_implied(tmp_path, {n: shape for n, shape in shapes.items() if n != name})
        larger = (shapes[name][0] + 1, *shapes[name][1:])
        with pytest.raises(CheckpointError, match=rf"{name} of .* is {larger[0]}\b.*implies {shapes[name][0]}\b"):
            require_implied(tmp_path, {**shapes, name: larger})


@needs_shared
@pytest.mark.parametrize("model", [LLAMA, QWEN2], ids=lambda path: path.name)
def test_real_models_fit(model: Path) -> None:
    assert implied.misfits(model, require_agreement(model)) == []


def test_rows_above_the_vocabulary(llama: tuple[Path, dict[str, Shape]]) -> None:
    path, shapes = llama
    rows, width = shapes["lm_head.weight"]
    wide = {name: (rows + 64, width) if shape == (rows, width) else shape for name, shape in shapes.items()}
    with pytest.raises(CheckpointError) as caught:
        require_implied(path, wide)
    assert caught.value.message == (
        f"lm_head.weight of {path} is {rows + 64} × {width} where its config.json implies {rows} × {width}. "
        "In all 2 tensors do not fit."
    )
    assert "resize_token_embeddings" in str(caught.value.hint)
    assert caught.value.exit_code == 3


def test_a_head_that_is_not_the_embedding(llama: tuple[Path, dict[str, Shape]]) -> None:
    path, shapes = llama
    del shapes["lm_head.weight"]
    with pytest.raises(
        CheckpointError, match=r"(?m)has no lm_head\.weight, which its config\.json implies\.$"
    ) as caught:
        require_implied(path, shapes)
    assert '"tie_word_embeddings": true' in str(caught.value.hint)
    settings(path, tie_word_embeddings=True)
    require_implied(path, shapes)


def test_heads_and_biases(llama: tuple[Path, dict[str, Shape]]) -> None:
    path, shapes = llama
    settings(path, num_key_value_heads=4)
    with pytest.raises(CheckpointError, match=r"k_proj\.weight of .* is 128 × 256 where .* implies 256 × 256\."):
        require_implied(path, shapes)
    settings(path, num_key_value_heads=2, attention_bias=True)
    with pytest.raises(CheckpointError, match=r"has no model\.layers\.0\.self_attn\.k_proj\.bias"):
        require_implied(path, shapes)
    settings(path, attention_bias=False)
    unused = {
        **shapes,
        "model.layers.0.self_attn.q_proj.bias": (256,),
        "model.layers.0.self_attn.rotary_emb.inv_freq": (32,),
    }
    with pytest.raises(CheckpointError, match=r"has model\.layers\.0\.self_attn\.q_proj\.bias, which is no part"):
        require_implied(path, unused)
    del unused["model.layers.0.self_attn.q_proj.bias"]
    require_implied(path, unused)


def test_an_expert_is_named_as_it_is_stored(tmp_path: Path) -> None:
    shutil.copy(ARCHS[0].with_name("qwen3moe.json"), tmp_path / "config.json")
    shapes = shapes_of(tmp_path)
    up = next(name for name in shapes if name.endswith("experts.1.up_proj.weight"))
    with pytest.raises(CheckpointError, match=f"has no {up}"):
        require_implied(tmp_path, {name: shape for name, shape in shapes.items() if name != up})
    with pytest.raises(CheckpointError, match=rf"{up} of .* is 1 × 64"):
        require_implied(tmp_path, {**shapes, up: (1, 64)})


def test_names_that_are_not_transformers_own_are_not_compared(llama: tuple[Path, dict[str, Shape]]) -> None:
    path, shapes = llama
    require_implied(path, {f"transformer.{i}.weight": shape for i, shape in enumerate(shapes.values())})


@pytest.mark.parametrize(
    "changes",
    [
        {"architectures": ["FooBarForCausalLM"]},
        {"architectures": ["MistralForCausalLM"]},
        {"architectures": [3]},
        {"model_type": "foobar"},
        {"num_attention_heads": 0},
        {"hidden_act": "nonsense"},
        {"quantization_config": {"quant_method": "fp8"}},
    ],
)
def test_what_transformers_does_not_know_is_not_compared(
    llama: tuple[Path, dict[str, Shape]], changes: dict[str, Any]
) -> None:
    path, _ = llama
    settings(path, **changes)
    require_implied(path, {"any.weight": (1,)})


def test_what_the_converter_stumbles_over() -> None:
    path = Path("m")
    for error in (
        KeyError("rms_norm_eps"),
        ValueError("nothing to unpack"),
        TypeError("a\nb"),
        AssertionError(),
    ):
        explained = not_convertible(path, error)
        assert explained.exit_code == 3
        assert explained.message.startswith(f"llama.cpp's converter cannot convert m: {type(error).__name__}")
        assert "\n" not in explained.message
    already = not_convertible(path, NotImplementedError("Quant method is not yet supported: 'awq'"))
    assert already.message == "m is quantized already: Quant method is not yet supported: 'awq'."
    with pytest.raises(AssertionError) as caught:
        assert max([3]) < 2
    assert isinstance(not_convertible(path, caught.value), TokenizerError)


def test_what_the_converter_looks_up_in_vain() -> None:
    """The line that did it tells a setting from a tensor; any other table is neither."""
    hparams, model_tensors, table = {"hidden_act": "gone"}, dict[str, int](), dict[str, int]()
    look_ups: tuple[Callable[[], object], ...] = (
        lambda: hparams["rms_norm_eps"],
        lambda: model_tensors["model.layers.0.mlp.gate.g_idx"],
        lambda: table[hparams["hidden_act"]],
    )
    told = []
    for look_up in look_ups:
        with pytest.raises(KeyError) as caught:
            look_up()
        told.append(not_convertible(Path("m"), caught.value))
    assert [error.message for error in told] == [
        'm lacks "rms_norm_eps" in its config.json, which llama.cpp\'s converter needs.',
        "m lacks the tensor model.layers.0.mlp.gate.g_idx, which llama.cpp's converter needs.",
        "llama.cpp's converter cannot convert m: KeyError: 'gone'.",
    ]
    assert {error.exit_code for error in told} == {3}


@pytest.mark.parametrize("key", ["quantization_config", "quantization"])
def test_a_tensor_of_a_quantized_checkpoint(llama: tuple[Path, dict[str, Shape]], key: str) -> None:
    """As compressed-tensors and MLX write them; an empty setting says nothing."""
    path, error = llama[0], ValueError("Can not map tensor 'lm_head.scales'")
    settings(path, **{key: None})
    assert not_convertible(path, error).message == f"llama.cpp's converter knows no 'lm_head.scales' of {path}."
    settings(path, **{key: {"bits": 4}})
    told = not_convertible(path, error)
    assert told.message == f"{path} is quantized already: llama.cpp's converter knows no 'lm_head.scales' of it."
    assert told.hint == "Start from the original checkpoint in F32, F16 or BF16."
    assert told.exit_code == 3


def test_parts_of_quantized_matrices_that_no_config_tells_of(llama: tuple[Path, dict[str, Shape]]) -> None:
    """As a fine-tune of a quantized model leaves them whose config.json is the original's."""
    told = not_convertible(llama[0], ValueError("Can not map tensor 'model.layers.0.mlp.down_proj.SCB'"))
    assert "'model.layers.0.mlp.down_proj.SCB', a part of a quantized matrix" in told.message
    assert "config.json that was saved with the weights" in str(told.hint)


def test_a_checkpoint_without_a_tokenizer(tmp_path: Path) -> None:
    """As trainers save it that know of the model only."""
    error = ValueError("Couldn't instantiate the backend tokenizer from one of: (1) a `tokenizers` library file")
    told = not_convertible(tmp_path, error)
    assert isinstance(told, TokenizerError)
    assert told.message == f"{tmp_path} has no tokenizer: neither tokenizer.json nor tokenizer.model."
    (tmp_path / "vocab.json").write_text("{}")
    assert "converter cannot convert" in not_convertible(tmp_path, error).message


def test_code_of_a_checkpoint_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some of the converter's classes ask for it."""
    path, ran = tiny.write_llama(tmp_path / "llama"), tmp_path / "ran"
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(dynamic_module_utils, "get_class_in_module", dynamic_module_utils.get_class_in_module)
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    (path / "own.py").write_text(f"open({str(ran)!r}, 'w')\nclass Own: pass\n")
    settings(path, model_type="foobar")
    own = {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", "own.Own"]}}
    (path / "tokenizer_config.json").write_text(json.dumps(own))
    refuse_own_code(path)
    with pytest.raises(UnsupportedArchitecture, match=r"needs code of its own, Own, which is never run\."):
        transformers.AutoTokenizer.from_pretrained(path, trust_remote_code=True)
    assert not ran.exists()
