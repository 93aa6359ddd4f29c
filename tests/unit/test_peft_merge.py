"""A merged checkpoint computes what peft's model computes, whatever the adapter changes; or the adapter is refused."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ggufkit.models import lora as models_lora
from ggufkit.models import peft_merge
from ggufkit.models.checkpoint import read_config, stored_tensors
from ggufkit.models.peft_merge import Refused
from tests import tiny

peft = pytest.importorskip("peft")
torch = pytest.importorskip("torch")
pytestmark = pytest.mark.filterwarnings("ignore")
HEAD = "lm_head.weight"
LAYERS = ["q_proj", "down_proj"]


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Llama in float32 whose head is its embedding, one with a head of its own, and this in half precision."""
    home = tmp_path_factory.mktemp("bases")
    half = tiny.write_llama(home / "half", width=64, family="qwen2", shards=2)
    for name, tied in (("untied", False), ("tied", True)):
        path = tiny.write_llama(home / name, width=64, family="qwen2", shards=2)
        weights = {n: t.astype(np.float32) for n, t in tensors(half).items() if not (tied and n == HEAD)}
        for old in path.glob("*.safetensors"):
            old.unlink()
        tiny.save_shards(path, weights, 2)
        config = read_config(path) | {"tie_word_embeddings": tied, "torch_dtype": "float32"}
        (path / "config.json").write_text(json.dumps(config))
    return home


def tensors(path: Path) -> dict[str, Any]:
    return {n: t for shard in sorted(path.glob("*.safetensors")) for n, t in load_file(shard).items()}


def load(path: Path, dtype: Any = None) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(path, dtype=dtype or torch.float32).eval()


def logits(model: Any) -> Any:
    with torch.no_grad():
        return model(torch.arange(2, 50)[None]).logits.float()


def adapt(base: Path, out: Path, config: Any, rows: int | None = None) -> Any:
    """Train nothing, but change everything that would be trained; save it as peft does."""
    model = load(base)
    if rows is not None:
        model.resize_token_embeddings(rows)
    adapted = peft.get_peft_model(model, config)
    torch.manual_seed(0)
    for weight in adapted.parameters():
        if weight.requires_grad:
            weight.data += torch.randn_like(weight) * 0.03
    adapted.save_pretrained(out)
    return adapted.eval()


def lora(**more: Any) -> Any:
    return peft.LoraConfig(**{"r": 4, "lora_alpha": 8, "task_type": "CAUSAL_LM", "target_modules": LAYERS, **more})


CONFIGS = {
    "plain": lora(),
    "all-linear": lora(target_modules="all-linear"),
    "rslora": lora(use_rslora=True),
    "dora": lora(use_dora=True),
    "ranks": lora(rank_pattern={"q_proj": 2}, alpha_pattern={"down_proj": 32}),
    "one-layer": lora(layers_to_transform=[1]),
    "pissa": lora(init_lora_weights="pissa"),
    "head-saved": lora(modules_to_save=["lm_head"]),
    "embedding-saved": lora(modules_to_save=["embed_tokens"]),
    "both-saved": lora(modules_to_save=["lm_head", "embed_tokens"]),
    "norms-saved": lora(modules_to_save=["input_layernorm", "norm"]),
    "head-target": lora(target_modules=[*LAYERS, "lm_head"]),
    "embedding-target": lora(target_modules=[*LAYERS, "embed_tokens"]),
    "both-targets": lora(target_modules=[*LAYERS, "embed_tokens", "lm_head"]),
    "embedding-dora": lora(target_modules=["q_proj", "embed_tokens"], use_dora=True),
    "tied-targets": lora(target_modules=[*LAYERS, "embed_tokens"], ensure_weight_tying=True),
    "tied-saved": lora(modules_to_save=["embed_tokens"], ensure_weight_tying=True),
    "tokens": lora(trainable_token_indices=[3, 5, 7]),
    "tokens-of-both": lora(trainable_token_indices={"embed_tokens": [3, 5], "lm_head": [7]}),
    "only-tokens": peft.TrainableTokensConfig(token_indices=[3, 5], task_type="CAUSAL_LM"),
    "loha": peft.LoHaConfig(r=4, target_modules=LAYERS, task_type="CAUSAL_LM"),
    "lokr": peft.LoKrConfig(r=4, target_modules=LAYERS, task_type="CAUSAL_LM"),
    "ia3": peft.IA3Config(target_modules=LAYERS, feedforward_modules=["down_proj"], task_type="CAUSAL_LM"),
    "norms": peft.LNTuningConfig(target_modules=["norm"], task_type="CAUSAL_LM"),
    "vera": peft.VeraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM"),
    "oft": peft.OFTConfig(r=4, oft_block_size=0, target_modules=["q_proj"], task_type="CAUSAL_LM"),
    "adalora": peft.AdaLoraConfig(total_step=10, target_modules=LAYERS, task_type="CAUSAL_LM"),
}
SAME_HEAD = {"tied-targets", "tied-saved", "tokens", "only-tokens"}
ENDS = {name for name in CONFIGS if any(word in name for word in ("head", "embedding", "both"))}


def merged(base: Path, adapter: Path, out: Path) -> Path:
    """The whole merged checkpoint: what merging wrote, and the base's other files."""
    out.mkdir()
    peft_merge.merge(base, adapter, out)
    for file in base.glob("*.json"):
        if not (out / file.name).exists():
            shutil.copy(file, out)
    return out


def apart(one: Any, other: Any) -> float:
    """The largest difference, as a fraction of the largest logit."""
    return float((one - other).abs().max() / other.abs().max())


BOTH = [
    (name, base) for name in CONFIGS for base in ("tied", "untied") if base == "tied" or name in {"plain", *ENDS}
]


@pytest.mark.parametrize(("name", "base"), BOTH)
def test_the_merged_checkpoint_computes_what_peft_computes(
    bases: Path, name: str, base: str, tmp_path: Path
) -> None:
    adapted = adapt(bases / base, tmp_path / "adapter", CONFIGS[name])
    wanted, plain = logits(adapted), logits(load(bases / base))
    path = merged(bases / base, tmp_path / "adapter", tmp_path / "merged")
    got = logits(load(path))
    assert apart(plain, wanted) > 1e-3
    assert apart(got, wanted) < 1e-4
    own_head = base == "untied" or (name in ENDS and name not in SAME_HEAD)
    assert (HEAD in tensors(path)) == own_head
    assert read_config(path)["tie_word_embeddings"] != own_head
    assert {t.name for t in stored_tensors(path)} == set(tensors(path))
    if base == "untied":
        assert (path / "config.json").read_bytes() == (bases / base / "config.json").read_bytes()
        assert apart(logits(adapted.merge_and_unload()), wanted) < 1e-4


@pytest.mark.parametrize("name", ["plain", "dora", "embedding-target", "head-saved", "tokens"])
def test_half_precision_is_rounded_once(bases: Path, name: str, tmp_path: Path) -> None:
    adapted = adapt(bases / "half", tmp_path / "adapter", CONFIGS[name])
    path = merged(bases / "half", tmp_path / "adapter", tmp_path / "merged")
    assert {tensor.dtype for tensor in stored_tensors(path)} == {"F16"}
    assert apart(logits(load(path)), logits(adapted)) < 1e-3
    exact = {n: t.half().numpy() for n, t in adapted.merge_and_unload().state_dict().items()}
    assert all(np.array_equal(t, exact[n]) for n, t in tensors(path).items())


VOCABULARIES = [
    (name, base) for name in ("plain", "head-saved", "both-saved", "tokens") for base in ("untied", "tied")
]


@pytest.mark.parametrize(("name", "base"), [*VOCABULARIES, ("embedding-target", "tied")])
@pytest.mark.parametrize("more", [8, -8])
def test_another_vocabulary(bases: Path, name: str, base: str, more: int, tmp_path: Path) -> None:
    rows = read_config(bases / base)["vocab_size"] + more
    adapted = adapt(bases / base, tmp_path / "adapter", CONFIGS[name], rows)
    path = merged(bases / base, tmp_path / "adapter", tmp_path / "merged")
    assert apart(logits(load(path)), logits(adapted)) < 1e-4
    assert read_config(path)["vocab_size"] == rows == len(tensors(path)["model.embed_tokens.weight"])


def test_experts(tmp_path: Path) -> None:
    """transformers holds experts as one tensor, the checkpoint each of them: both names are the adapter's to use."""
    from transformers import AutoConfig, AutoModelForCausalLM

    settings = json.loads((Path(__file__).parents[1] / "archs" / "qwen3moe.json").read_text())
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**settings), dtype=torch.float32)
    model.save_pretrained(tmp_path / "base")
    assert any("experts.1.up_proj" in name for name in tensors(tmp_path / "base"))
    config = lora(target_modules=["q_proj"], target_parameters=["mlp.experts.gate_up_proj"])
    adapted = adapt(tmp_path / "base", tmp_path / "adapter", config)
    path = merged(tmp_path / "base", tmp_path / "adapter", tmp_path / "merged")
    assert set(tensors(path)) == set(tensors(tmp_path / "base"))
    assert (
        apart(logits(load(path)), logits(adapted)) < 1e-4 < apart(logits(load(tmp_path / "base")), logits(adapted))
    )


@pytest.mark.parametrize(
    "more", [{"bias": "all"}, {"bias": "lora_only", "fan_in_fan_out": True}, {"modules_to_save": ["wte"]}], ids=str
)
def test_weights_that_lie_the_other_way_round_and_biases(more: dict[str, Any], tmp_path: Path) -> None:
    """GPT-2 stores its matrices transposed, has biases, and uses its embedding as head."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(1)
    small = GPT2Config(vocab_size=64, n_positions=64, n_embd=32, n_layer=2, n_head=2, resid_pdrop=0.0)
    GPT2LMHeadModel(small).save_pretrained(tmp_path / "base")
    adapted = adapt(tmp_path / "base", tmp_path / "adapter", lora(target_modules=["c_attn", "c_proj"], **more))
    path = merged(tmp_path / "base", tmp_path / "adapter", tmp_path / "merged")
    assert (
        apart(logits(load(path)), logits(adapted)) < 1e-4 < apart(logits(load(tmp_path / "base")), logits(adapted))
    )
    assert (HEAD in tensors(path)) == ("modules_to_save" in more)


def edit(adapter: Path, drop: str = "", **settings: object) -> None:
    """An adapter with other settings, and without the weights that are named so."""
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))
    weights = load_file(adapter / peft_merge.WEIGHTS)
    kept = {name: t for name, t in weights.items() if not drop or drop not in name}
    save_file(kept, adapter / peft_merge.WEIGHTS)


REFUSED = {
    "prompts": (peft.PromptTuningConfig(num_virtual_tokens=4, task_type="CAUSAL_LM"), "PROMPT_TUNING changes how"),
    "prefix": (peft.PrefixTuningConfig(num_virtual_tokens=4, task_type="CAUSAL_LM"), "PREFIX_TUNING changes how"),
    "activated": (lora(alora_invocation_tokens=[1, 2]), "alora_invocation_tokens"),
    "replicated": (lora(layer_replication=[[0, 2], [0, 2]]), "layer_replication makes another model"),
    "no bias": (lora(lora_bias=True), "the base layer has no bias"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_merged_is_refused_by_name(bases: Path, name: str, tmp_path: Path) -> None:
    config, reason = REFUSED[name]
    adapt(bases / "untied", tmp_path / "adapter", config)
    with pytest.raises(Exception, match=reason):
        merged(bases / "untied", tmp_path / "adapter", tmp_path / "merged")


@pytest.mark.parametrize(
    ("drop", "settings", "reason"),
    [
        ("layers.1.self_attn.q_proj.lora_B", {}, "lacks model.layers.1.self_attn.q_proj.lora_B"),
        ("", {"target_modules": ["q_proj"]}, "holds model.layers.0.mlp.down_proj.lora_A.weight, for which"),
        ("", {"peft_type": "MAGIC"}, "this peft knows no method MAGIC"),
        ("", {"use_magic": True}, "does not know its setting use_magic"),
        ("", {"r": 8}, r"lora_A.weight is 4 x \d+ in the adapter and 8 x \d+ for this model"),
    ],
)  # fmt: skip
def test_an_adapter_whose_parts_do_not_fit(
    bases: Path, drop: str, settings: dict[str, object], reason: str, tmp_path: Path
) -> None:
    adapt(bases / "untied", tmp_path / "adapter", CONFIGS["plain"])
    edit(tmp_path / "adapter", drop, **settings)
    with pytest.raises(Exception) as told:  # noqa: PT011 - whatever peft raises becomes one line
        merged(bases / "untied", tmp_path / "adapter", tmp_path / "merged")
    assert re.search(reason, peft_merge.reason(told.value))


def test_new_rows_that_nobody_holds(bases: Path, tmp_path: Path) -> None:
    rows = read_config(bases / "untied")["vocab_size"] + 8
    adapt(bases / "untied", tmp_path / "adapter", CONFIGS["head-saved"], rows)
    edit(tmp_path / "adapter", "embed_tokens")
    with pytest.raises(Refused, match=r"8 new rows of model\.embed_tokens"):
        merged(bases / "untied", tmp_path / "adapter", tmp_path / "merged")


def test_an_adapter_that_changes_nothing(bases: Path, tmp_path: Path) -> None:
    peft.get_peft_model(load(bases / "tied"), CONFIGS["plain"]).save_pretrained(tmp_path / "adapter")
    with pytest.raises(Refused, match="changes no weight"):
        merged(bases / "tied", tmp_path / "adapter", tmp_path / "merged")


@pytest.mark.parametrize(("own", "kept"), [({"chat_template": "B"}, False), ({}, True)])
def test_the_chat_template_that_an_adapter_was_trained_with(
    tmp_path: Path, own: dict[str, str], kept: bool
) -> None:
    """In tokenizer_config.json; of two, transformers would take the base's file."""
    base, adapter, out = tiny.write_llama(tmp_path / "base", width=64), tmp_path / "adapter", tmp_path / "out"
    (base / "chat_template.jinja").write_text("A")
    for path in (adapter, out):
        path.mkdir()
    (adapter / "tokenizer_config.json").write_text(json.dumps(own))
    models_lora._copy_rest(base, adapter, out)
    assert json.loads((out / "tokenizer_config.json").read_text()) == own
    assert (out / "chat_template.jinja").exists() == kept
    assert (out / "tokenizer.json").read_bytes() == (base / "tokenizer.json").read_bytes()
