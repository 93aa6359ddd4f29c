"""Adapters as GGUFs: llama.cpp computes with them what peft computes, or they are refused by name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ggufkit.core.errors import InputError
from ggufkit.core.records import Checkpoint
from ggufkit.llama.gguf import read_header
from ggufkit.models import plain_lora, sources
from ggufkit.steps import lora as step
from ggufkit.steps.lora import LoraNotes, LoraOptions
from ggufkit.steps.session import Session
from tests import tiny
from tests.integration.run_cli import fails
from tests.unit import test_peft_merge as merging

peft = pytest.importorskip("peft")
torch = pytest.importorskip("torch")
pytestmark = pytest.mark.filterwarnings("ignore")
LAYERS = merging.LAYERS


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_llama(tmp_path_factory.mktemp("lora") / "tiny", width=64, family="qwen2")


@pytest.fixture(scope="module")
def tied(base: Path) -> Path:
    """The same, whose head is its embedding."""
    path = Path(shutil.copytree(base, base.with_name("tied")))
    weights = {name: t for name, t in merging.tensors(path).items() if name != merging.HEAD}
    for old in path.glob("*.safetensors"):
        old.unlink()
    tiny.save_shards(path, weights, 1)
    config = json.loads((path / "config.json").read_text()) | {"tie_word_embeddings": True}
    (path / "config.json").write_text(json.dumps(config))
    return path


def converted(base: Path, adapter: Path, session: Session, **more: Any) -> tuple[Path, LoraNotes]:
    checkpoint = sources.resolve(str(base))
    assert isinstance(checkpoint, Checkpoint)
    made = step.convert_lora(
        checkpoint, adapter, session.workspace.root / "lora.gguf", LoraOptions(**more), session
    )
    return made.path, LoraNotes.from_manifest(made.manifest)


SEVERAL = merging.lora(
    target_modules=[*LAYERS, "embed_tokens", "lm_head"],
    use_rslora=True,
    rank_pattern={"q_proj": 2},
    alpha_pattern={"layers.0.mlp.down_proj": 32},
)
"""All that is folded into matrices at once."""
FOLDED = {
    "several": SEVERAL,
    **{name: merging.CONFIGS[name] for name in ("plain", "all-linear", "rslora", "ranks", "one-layer")},
    "embedding-target": merging.CONFIGS["both-targets"],
}


def test_llama_cpp_computes_what_peft_computes(base: Path, session: Session, tmp_path: Path) -> None:
    merging.adapt(base, tmp_path / "adapter", SEVERAL)
    _, notes = converted(base, tmp_path / "adapter", session, check_function=False)
    assert notes.logit_difference is None
    file, notes = converted(base, tmp_path / "adapter", session, check_function=True)
    assert notes.logit_difference is not None, "it was not compared yet"
    assert notes.logit_effect is not None
    assert notes.logit_difference < min(1e-3, 1e-2 * notes.logit_effect)
    assert notes.kld is not None
    assert notes.kld_base is not None
    assert abs(notes.kld) < 0.01 * notes.kld_base
    assert notes.ranks == (2, 4)
    assert read_header(file).metadata["adapter.lora.alpha"] == 8
    before = file.stat().st_mtime_ns
    converted(base, tmp_path / "adapter", session)
    assert file.stat().st_mtime_ns == before, "nothing changed"


@pytest.mark.parametrize("name", FOLDED)
def test_one_scale_gives_what_peft_s_settings_give(base: Path, name: str, tmp_path: Path) -> None:
    adapted = merging.adapt(base, tmp_path / "adapter", FOLDED[name])
    plain_lora.write_plain(base, tmp_path / "adapter", tmp_path / "plain")
    changes = merging.tensors(tmp_path / "plain")
    alpha = json.loads((tmp_path / "plain" / "adapter_config.json").read_text())["lora_alpha"]
    merged, n_changed = adapted.merge_and_unload().state_dict(), 0
    for module, before in merging.tensors(base).items():
        named = f"base_model.model.{module.removesuffix('.weight')}.lora_%s.weight"
        if (first := changes.get(named % "A")) is not None:
            change = alpha / len(first) * changes[named % "B"] @ first
            wanted = merged[module].numpy() - before
            assert np.allclose(change.T if "embed" in module else change, wanted, atol=1e-6)
            n_changed += 1
    assert n_changed == len(changes) / 2 > 0


def test_weights_that_lie_the_other_way_round(tmp_path: Path) -> None:
    """GPT-2 stores its matrices transposed, and the converter takes a change for one of what is stored."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(1)
    small = GPT2Config(vocab_size=64, n_positions=64, n_embd=32, n_layer=1, n_head=2)
    GPT2LMHeadModel(small).save_pretrained(tmp_path / "base")
    config = merging.lora(target_modules=["c_attn", "c_proj"], fan_in_fan_out=True)
    adapted = merging.adapt(tmp_path / "base", tmp_path / "adapter", config)
    plain_lora.write_plain(tmp_path / "base", tmp_path / "adapter", tmp_path / "plain")
    changes, name = merging.tensors(tmp_path / "plain"), "transformer.h.0.attn.c_proj"
    before = GPT2LMHeadModel.from_pretrained(tmp_path / "base").state_dict()[f"{name}.weight"]
    wanted = adapted.merge_and_unload().state_dict()[f"{name}.weight"] - before
    first, second = (changes[f"base_model.model.{name}.lora_{side}.weight"] for side in "AB")
    assert np.allclose(2 * second @ first, wanted.numpy(), atol=1e-6)


REFUSED = {
    "dora": "DoRA scales the base's rows",
    "pissa": r"other weights of the base \(pissa\)",
    "head-saved": "it brings whole weights",
    "tokens": "embeddings of single tokens",
    "loha": "LOHA is no LoRA",
    "head-target": "lm_head, which in this model is embedding and head at once",
    "embedding-target": "embed_tokens, which in this model is embedding and head at once",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_gguf_adapter_cannot_hold(tied: Path, name: str, tmp_path: Path) -> None:
    merging.adapt(tied, tmp_path / "adapter", merging.CONFIGS[name])
    with pytest.raises(InputError, match=f"cannot be a GGUF adapter: .*{REFUSED[name]}") as refused:
        plain_lora.write_plain(tied, tmp_path / "adapter", tmp_path / "plain")
    assert f"ggufkit convert {tied} --lora" in str(refused.value.hint)


@pytest.mark.parametrize(
    ("drop", "settings", "reason"),
    [
        ("layers.1.self_attn.q_proj.lora_B", {}, r"of model\.layers\.1\.self_attn\.q_proj one matrix lacks"),
        ("", {"r": 8}, r"its model\.layers\.0\.mlp\.down_proj is 4 x 128 and 64 x 4 where the model has 64 x 128, rank 8"),
        ("", {"use_magic": True}, "what its setting use_magic does is not known"),
        ("", {"lora_alpha": 0}, "its rank is 4, its alpha 0"),
        ("", {"bias": "all"}, "it changes biases"),
    ],
)  # fmt: skip
def test_an_adapter_whose_parts_do_not_fit(
    base: Path, drop: str, settings: dict[str, object], reason: str, tmp_path: Path
) -> None:
    merging.adapt(base, tmp_path / "adapter", merging.CONFIGS["plain"])
    merging.edit(tmp_path / "adapter", drop, **settings)
    with pytest.raises(InputError, match=reason):
        plain_lora.make_plain(base, tmp_path / "adapter", tmp_path / "plain")


def test_an_adapter_of_another_model_or_of_none(base: Path, tmp_path: Path) -> None:
    other = tiny.write_llama(tmp_path / "other", width=128)
    merging.adapt(other, tmp_path / "adapter", merging.CONFIGS["plain"])
    said = fails(3, "lora", tmp_path / "adapter", "--base", base, "--out", tmp_path / "out")
    assert "is no adapter of" in said
    assert list((tmp_path / "out").glob("*.gguf")) == []
    peft.get_peft_model(merging.load(base), merging.CONFIGS["plain"]).save_pretrained(tmp_path / "untrained")
    assert "it was not trained" in fails(3, "lora", tmp_path / "untrained", "--base", base)
