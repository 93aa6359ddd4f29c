"""Folding scales leaves the function of every architecture of the table as it is."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ggufkit.awq import archs
from ggufkit.awq import proof as proof_module
from ggufkit.awq.apply import Rewrites, plan_folds, publishing, write_checkpoint
from ggufkit.awq.archs import ARCHITECTURES, Divide, Fold, folds_in_layer, folds_of
from ggufkit.awq.fold import Heads, settle
from ggufkit.awq.proof import prove, prove_unchanged, rewritten_layers
from ggufkit.core.errors import CheckpointError, InputError, ResourceError, ToolError, UnsupportedArchitecture
from ggufkit.core.progress import SilentReporter
from ggufkit.layers import HiddenStates, StreamedModel

CONFIGS = sorted((Path(__file__).resolve().parents[1] / "archs").glob("*.json"))
TOKENS = np.random.default_rng(0).integers(0, 96, (3, 24)).astype(np.int32)
QUIET = SilentReporter()


def random_model(config: Path, path: Path) -> Any:
    """A float32 model of a config with random weights, biases and norms, saved as a checkpoint."""
    from transformers import AutoConfig, AutoModelForCausalLM

    path.mkdir(parents=True)
    shutil.copyfile(config, path / "config.json")
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(path), dtype=torch.float32).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            is_norm = "norm" in name and parameter.dim() == 1
            parameter.copy_(parameter + 0.2 * noise if is_norm else 0.15 * noise)
    model.save_pretrained(path)
    shutil.copyfile(config, path / "config.json")
    return model


def logits_of(model: Any) -> torch.Tensor:
    """Logits of TOKENS by transformers itself."""
    with torch.no_grad():
        logits: torch.Tensor = model(torch.from_numpy(TOKENS).long()).logits
    return logits


def reload(path: Path) -> Any:
    """A checkpoint in transformers, float32."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()


def write(source: Path, out: Path, rewrites: Rewrites, dtype: torch.dtype | None = None) -> None:
    """Write a scaled checkpoint as the engine does, without its proof."""
    with publishing(source, out) as unfinished:
        write_checkpoint(source, unfinished, rewrites, QUIET, dtype=dtype)


def random_scales(model: StreamedModel) -> dict[str, torch.Tensor]:
    """Random positive scales for every fold of every layer."""
    generator = torch.Generator().manual_seed(2)
    heads = Heads(*model.heads)
    scales = {}
    for index in range(model.n_layers):
        layer = model.load_layer(index)
        modules = {n.rpartition(".")[0] for n, _ in layer.named_parameters()}
        for fold in folds_in_layer(folds_of(model.architecture), modules):
            width = layer.get_parameter(f"{fold.targets[-1]}.weight").shape[1]
            channels = width * heads.kv // heads.query if fold.per_kv_channel else width
            scales[model.prefix(index) + fold.source] = torch.exp(0.7 * torch.randn(channels, generator=generator))
    return scales


@pytest.fixture(params=CONFIGS, ids=lambda c: c.stem)
def arch(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Any, Path]:
    """A random model of one architecture, and where it is saved."""
    path = tmp_path / "source"
    return random_model(request.param, path), path


def test_every_architecture_has_a_config() -> None:
    named = {json.loads(c.read_text())["architectures"][0] for c in CONFIGS}
    assert named == set(ARCHITECTURES)


def test_streamed_layers_compute_what_transformers_computes(arch: tuple[Any, Path]) -> None:
    model, path = arch
    streamed = StreamedModel(path, "cpu")
    hidden = streamed.embed(TOKENS)
    for index in range(streamed.n_layers):
        hidden = streamed.forward(index, streamed.load_layer(index), hidden)
    assert torch.allclose(streamed.logits(hidden), logits_of(model), atol=1e-5)


def test_random_scales_leave_the_logits_unchanged(arch: tuple[Any, Path], tmp_path: Path) -> None:
    model, path = arch
    streamed = StreamedModel(path, "cpu")
    planned = plan_folds(streamed, random_scales(streamed))
    write(path, tmp_path / "scaled", planned)
    scaled = reload(tmp_path / "scaled")
    assert planned
    assert float((logits_of(scaled) - logits_of(model)).abs().max()) <= 1e-4


def test_a_broken_fold_is_caught(arch: tuple[Any, Path], tmp_path: Path) -> None:
    _, path = arch
    streamed = StreamedModel(path, "cpu")
    planned = dict(plan_folds(streamed, random_scales(streamed)))
    forgotten = next(n for n in planned if n.endswith("down_proj.weight"))
    del planned[forgotten]
    write(path, tmp_path / "scaled", planned)
    written = StreamedModel(tmp_path / "scaled", "cpu")
    with pytest.raises(ToolError, match="changed the function"):
        prove(streamed, rewritten_layers(streamed, planned), written, TOKENS, QUIET)


@pytest.fixture
def llama(tmp_path: Path) -> StreamedModel:
    """A small random Llama."""
    path = tmp_path / "source"
    random_model(next(c for c in CONFIGS if c.stem == "llama"), path)
    return StreamedModel(path, "cpu")


def test_the_wrong_kind_of_norm_is_caught(
    llama: StreamedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = tuple(replace(f, divide=Divide.NORM_PLUS_ONE) if f.divide is Divide.NORM else f for f in archs._LLAMA)
    monkeypatch.setitem(ARCHITECTURES, "LlamaForCausalLM", row)
    planned = plan_folds(llama, random_scales(llama))
    write(llama.path, tmp_path / "scaled", planned)
    with pytest.raises(ToolError):
        prove(llama, rewritten_layers(llama, planned), StreamedModel(tmp_path / "scaled", "cpu"), TOKENS, QUIET)


def test_what_is_written_must_be_what_was_proved(llama: StreamedModel, tmp_path: Path) -> None:
    planned = plan_folds(llama, random_scales(llama))
    write(llama.path, tmp_path / "scaled", {}, dtype=torch.float16)
    proof = prove(llama, rewritten_layers(llama, {}), StreamedModel(tmp_path / "scaled", "cpu"), TOKENS, QUIET)
    assert proof.holds
    assert proof.folded.max_delta == 0
    assert 0 < proof.written.kl_mean < 1e-4
    half = {n: e for n, e in planned.items() if "norm" in n}
    write(llama.path, tmp_path / "wrong", half)
    with pytest.raises(ToolError, match="not written as it should be"):
        prove(llama, rewritten_layers(llama, planned), StreamedModel(tmp_path / "wrong", "cpu"), TOKENS, QUIET)


def test_where_nothing_was_scaled_every_tensor_is_compared_instead(llama: StreamedModel, tmp_path: Path) -> None:
    write(llama.path, tmp_path / "same", {}, dtype=torch.float32)
    proof = prove_unchanged(llama, StreamedModel(tmp_path / "same", "cpu"))
    assert proof.holds
    assert proof.notes() == {"equality": {"same_tensors": True}}
    name = "model.layers.1.mlp.up_proj.weight"
    write(llama.path, tmp_path / "wrong", {name: lambda weight: weight * 1.001})
    with pytest.raises(ToolError, match=f"{name} is not what it was"):
        prove_unchanged(llama, StreamedModel(tmp_path / "wrong", "cpu"))


def test_logits_are_compared_where_hidden_states_moved_most(
    llama: StreamedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proof_module, "_TOKENS", 8)
    states = [HiddenStates(tmp_path / name, TOKENS.shape, llama.width) for name in ("one", "two")]
    values = torch.randn(*TOKENS.shape, llama.width)
    states[0].write(0, values)
    values[1, 3] += 1.0
    states[1].write(0, values)
    chosen = proof_module._telling(llama, *states)
    assert 3 in chosen[1]
    assert 4 <= sum(map(len, chosen)) <= 8


@pytest.mark.parametrize("name", ["lm_head.weight", "model.embed_tokens.weight", "model.norm.weight"])
def test_what_is_not_scaled_must_be_written_as_it_was(llama: StreamedModel, tmp_path: Path, name: str) -> None:
    write(llama.path, tmp_path / "wrong", {name: lambda weight: weight * 1.001})
    with pytest.raises(ToolError, match=f"{name} is not what it was"):
        prove(llama, rewritten_layers(llama, {}), StreamedModel(tmp_path / "wrong", "cpu"), TOKENS, QUIET)


def test_other_files_are_copied_and_the_source_is_untouched(llama: StreamedModel, tmp_path: Path) -> None:
    (llama.path / "tokenizer.json").write_text("{}")
    (llama.path / "pytorch_model.bin").write_bytes(b"pickle")
    before = {f.name: f.read_bytes() for f in llama.path.iterdir()}
    planned = plan_folds(llama, random_scales(llama))
    write(llama.path, tmp_path / "scaled", planned, dtype=torch.float16)
    assert {f.name: f.read_bytes() for f in llama.path.iterdir()} == before
    assert sorted(f.name for f in (tmp_path / "scaled").iterdir()) == sorted(set(before) - {"pytorch_model.bin"})
    assert json.loads((tmp_path / "scaled" / "config.json").read_text())["torch_dtype"] == "float16"
    assert {t.dtype for t in StreamedModel(tmp_path / "scaled", "cpu").shards.tensors.values()} == {"F16"}


def test_a_full_disk_leaves_nothing_behind(
    llama: StreamedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ggufkit.awq.apply._write_tensor", full)
    out = tmp_path / "scaled"
    out.mkdir()
    (out / "earlier").touch()
    with pytest.raises(ResourceError, match="No space left"):
        write(llama.path, out, {})
    assert [f.name for f in tmp_path.iterdir() if f.name.startswith("scaled")] == ["scaled"]
    assert (out / "earlier").exists()


@pytest.mark.parametrize("out", ["source", "source/scaled"])
def test_the_source_is_never_written_to(llama: StreamedModel, tmp_path: Path, out: str) -> None:
    with pytest.raises(InputError, match="must stay as it is"):
        write(llama.path, tmp_path / out, {})


def test_a_scaled_weight_that_overflows_is_refused(llama: StreamedModel, tmp_path: Path) -> None:
    scales = {"model.layers.0.mlp.up_proj": torch.full((128,), 1e6)}
    planned = plan_folds(llama, scales)
    with pytest.raises(CheckpointError, match=r"down_proj.weight overflows"):
        write(llama.path, tmp_path / "scaled", planned, dtype=torch.float16)
    assert not (tmp_path / "scaled").exists()


def test_an_unknown_architecture_is_refused_with_the_way_out() -> None:
    with pytest.raises(UnsupportedArchitecture) as refused:
        folds_of("OpaqueForCausalLM")
    assert "--variants imatrix" in (refused.value.hint or "")


def test_a_fold_that_is_there_in_part_is_refused() -> None:
    fold = Fold("norm", ("a", "b"), Divide.NORM)
    assert folds_in_layer((fold,), {"norm", "c"}) == []
    with pytest.raises(CheckpointError, match="not b"):
        folds_in_layer((fold,), {"norm", "a"})


def test_experts_are_written_out() -> None:
    modules = {"post_attention_layernorm", "mlp.gate"}
    modules |= {f"mlp.experts.{e}.{n}_proj" for e in range(11) for n in ("gate", "up", "down")}
    found = folds_in_layer(folds_of("Qwen3MoeForCausalLM"), modules)
    assert [f.source for f in found][:2] == ["post_attention_layernorm", "mlp.experts.0.up_proj"]
    assert len(found) == 12
    assert len(found[0].targets) == 23


def test_query_heads_share_the_scales_of_their_kv_head() -> None:
    heads = Heads(query=4, kv=2)
    spread = heads.spread(torch.tensor([1.0, 2, 3, 4]))
    assert spread.tolist() == [1, 2, 1, 2, 3, 4, 3, 4]
    assert heads.gather(spread).tolist() == [1, 2, 3, 4]


@given(
    st.lists(st.floats(0.01, 100), min_size=1, max_size=20), st.sampled_from([Divide.NORM, Divide.NORM_PLUS_ONE])
)
def test_settled_scales_make_the_norm_exact(values: list[float], divide: Divide) -> None:
    scales = torch.tensor(values)
    norm = torch.linspace(0.3, 1.7, len(values)).to(torch.bfloat16).float()
    settled = settle(scales, norm, divide, torch.bfloat16)
    assert ((settled / scales - 1).abs() < 0.02).all()
    one = 1.0 if divide is Divide.NORM_PLUS_ONE else 0.0
    divided = (one + norm) / settled - one
    moved = settled != scales
    assert torch.allclose(divided[moved], divided[moved].to(torch.bfloat16).float(), rtol=1e-5, atol=1e-6)
