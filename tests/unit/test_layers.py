"""Layer by layer: tensors read singly, second moments, hidden states in files, names in the GGUF."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from ggufkit.core.errors import (
    CheckpointError,
    DeviceMemoryError,
    InputError,
    ResourceError,
    UnsupportedArchitecture,
)
from ggufkit.layers import (
    HiddenStates,
    Linear,
    Moments,
    Shards,
    StreamedModel,
    borrowed_device,
    embed,
    from_file_rows,
    gathering,
    moments_for,
    passes,
    run_layer,
    to_file_rows,
)
from tests import tiny

TOKENS = np.random.default_rng(0).integers(0, 370, (5, 16)).astype(np.int32)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A tiny Llama in two shards."""
    return tiny.write_llama(tmp_path / "tiny", width=64, shards=2)


@given(st.integers(1, 700), st.integers(1, 40))
@settings(max_examples=20, deadline=None)
def test_moments_are_means_of_outer_products(width: int, count: int) -> None:
    x = torch.randn(count, width, generator=torch.Generator().manual_seed(width))
    full, thin = Moments(width), Moments(width, full=False)
    for part in torch.tensor_split(x, 3):
        full.add(part[None])
        thin.add(part)
    wanted = x.double().T @ x.double() / count
    assert full.count == thin.count == count
    assert torch.allclose(full.mean().double(), wanted, atol=1e-4)
    assert torch.allclose(full.mean(), full.mean().T)
    assert torch.allclose(full.diagonal(), thin.diagonal(), rtol=1e-4)
    assert torch.allclose(thin.mean().double(), wanted.diagonal(), atol=1e-4)
    assert torch.allclose(full.magnitude(), x.abs().double().mean(0), rtol=1e-5)


def test_moments_of_nothing_are_zero() -> None:
    assert not Moments(3).mean().any()


def test_moments_may_be_read_while_they_grow() -> None:
    sums, x = Moments(600), torch.randn(10, 600)
    sums.add(x[:5])
    sums.mean()
    sums.add(x[5:])
    assert torch.allclose(sums.mean(), x.T @ x / 10, atol=1e-4)


def test_linears_with_one_input_stay_in_one_pass() -> None:
    rows = [("q", "in", 10), ("k", "in", 10), ("down", "out", 30), ("x", "other", 20)]
    linears = [Linear(m, m, key, n) for m, key, n in rows]
    assert [[x.module for x in group] for group in passes(linears, 4 * 1300)] == [
        ["q", "k", "down"],
        ["x"],
    ]
    assert [[x.module for x in group] for group in passes(linears, 1)] == [["q", "k"], ["down"], ["x"]]


@given(st.integers(1, 4), st.integers(1, 6))
def test_file_rows_and_back(heads: int, half: int) -> None:
    weight = torch.arange(heads * 2 * half * 3).reshape(-1, 3)
    there = to_file_rows(weight, heads)
    assert torch.equal(from_file_rows(there, heads), weight)
    wanted = weight.reshape(heads, 2, half, 3).transpose(1, 2).reshape(weight.shape)
    assert torch.equal(there, wanted)


def test_tensors_are_read_singly_in_float32(path: Path) -> None:
    shards = Shards(path)
    stored = {n: t for f in path.glob("*.safetensors") for n, t in load_file(f).items()}
    assert set(shards.tensors) == set(stored)
    for name, tensor in stored.items():
        assert torch.equal(shards.read(name), tensor.float())
    ids = torch.tensor([3, 0, 3])
    name = "model.embed_tokens.weight"
    assert torch.equal(shards.rows(name, ids), stored[name][ids].float())
    with pytest.raises(CheckpointError, match="no tensor x"):
        shards.read("x")


def test_integer_weights_are_refused(tmp_path: Path) -> None:
    save_file({"w": torch.zeros(4, dtype=torch.int8)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="not a plain float"):
        Shards(tmp_path).read("w")


def test_linears_know_their_tensors(path: Path) -> None:
    model = StreamedModel(path, "cpu")
    linears = {x.module: x for x in model.linears(model.load_layer(1), 1)}
    assert linears["self_attn.k_proj"].tensor == "blk.1.attn_k.weight"
    assert linears["self_attn.k_proj"].row_heads == 2
    assert linears["mlp.down_proj"].input == "mlp_out"
    assert linears["self_attn.q_proj"].input == linears["self_attn.v_proj"].input
    assert len(linears) == 7


def run_all(path: Path, scratch: Path) -> tuple[StreamedModel, HiddenStates]:
    """A model, and its last layer's output for TOKENS."""
    model = StreamedModel(path, "cpu")
    hidden = HiddenStates(scratch / "0", TOKENS.shape, model.width)
    embed(model, TOKENS, hidden)
    for index in range(model.n_layers):
        after = HiddenStates(scratch / str(index + 1), TOKENS.shape, model.width)
        run_layer(model, index, model.load_layer(index), hidden, after)
        hidden = after
    return model, hidden


def test_hidden_states_in_files_give_the_logits_of_the_whole_model(path: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    model, hidden = run_all(path, tmp_path)
    whole = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    with torch.no_grad():
        wanted = whole(torch.from_numpy(TOKENS).long()).logits
    assert torch.allclose(model.logits(hidden.read(0, 5)), wanted, atol=1e-5)
    model.release_head()
    assert torch.allclose(model.logits(hidden.read(3, 9)), wanted[3:], atol=1e-5)


def test_moments_are_those_of_the_linears_inputs(path: Path, tmp_path: Path) -> None:
    model = StreamedModel(path, "cpu")
    hidden = HiddenStates(tmp_path / "0", TOKENS.shape, model.width)
    embed(model, TOKENS, hidden)
    layer = model.load_layer(0)
    sums = moments_for(model.linears(layer, 0))
    seen: list[int] = []
    with gathering(sums, layer, model.linears(layer, 0)):
        run_layer(model, 0, layer, hidden, on_batch=seen.append)
    norm = layer.get_submodule("input_layernorm")
    x = norm(hidden.read(0, 5)).reshape(-1, model.width)
    assert set(sums) == {"attn_in", "attn_out", "mlp_in", "mlp_out"}
    assert torch.allclose(sums["attn_in"].mean(), x.T @ x / len(x), atol=1e-4)
    assert seen == [5]


def test_weights_may_be_overwritten(path: Path, tmp_path: Path) -> None:
    model = StreamedModel(path, "cpu")
    layer = model.load_layer(0)
    x = model.embed(TOKENS)
    before = model.forward(0, layer, x)
    layer.get_parameter("mlp.down_proj.weight").data.zero_()
    layer.get_parameter("self_attn.o_proj.weight").data.zero_()
    assert torch.equal(model.forward(0, layer, x), x)
    assert not torch.equal(before, x)


def test_activations_that_are_not_finite_name_their_layer(path: Path, tmp_path: Path) -> None:
    file = next(f for f in path.glob("*.safetensors") if "model.layers.1.mlp.up_proj.weight" in load_file(f))
    tensors = load_file(file)
    tensors["model.layers.1.mlp.up_proj.weight"][3, 3] = float("nan")
    save_file(tensors, file)
    with pytest.raises(InputError, match=r"Layer 1 .* NaN"):
        run_all(path, tmp_path)


def test_hidden_states_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(ResourceError, match="No space left"):
        HiddenStates(tmp_path / "0", (1, 2), 3).write(0, torch.zeros(1, 2, 3))


def test_hidden_states_may_go_over_a_file_of_their_size(tmp_path: Path) -> None:
    for shape, value in (((3, 2), 1.0), ((3, 2), 2.0), ((2, 2), 3.0)):
        hidden = HiddenStates(tmp_path / "0", shape, 4, reuse=True)
        for start in range(shape[0]):
            hidden.write(start, torch.full((1, 2, 4), value + start))
        assert hidden.complete
        assert [float(hidden.read(i, i + 1).mean()) for i in range(shape[0])] == [
            value + i for i in range(shape[0])
        ]


def edit_config(path: Path, **changes: object) -> None:
    """Change settings of a checkpoint's config.json."""
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | changes))


def test_quantized_checkpoints_are_refused(path: Path) -> None:
    edit_config(path, quantization_config={"quant_method": "awq", "bits": 4})
    with pytest.raises(CheckpointError, match="quantized already"):
        StreamedModel(path, "cpu")


def test_a_config_of_another_model_is_refused(path: Path) -> None:
    edit_config(path, intermediate_size=96)
    with pytest.raises(CheckpointError, match=r"mlp.gate_proj.weight is \(128, 64\)"):
        StreamedModel(path, "cpu").load_layer(0)


def test_what_is_no_decoder_is_refused(path: Path) -> None:
    (path / "config.json").write_text(json.dumps({"model_type": "bert", "architectures": ["BertModel"]}))
    with pytest.raises((UnsupportedArchitecture, CheckpointError)):
        StreamedModel(path, "cpu").load_layer(0)


def test_unknown_model_types_are_refused(path: Path) -> None:
    (path / "config.json").write_text(json.dumps({"model_type": "opaque", "architectures": ["Opaque"]}))
    with pytest.raises(CheckpointError, match=r"config.json"):
        StreamedModel(path, "cpu")


def test_weights_under_other_names_are_refused_at_once(tmp_path: Path) -> None:
    path = tiny.write_llama(tmp_path / "tiny", width=64)
    StreamedModel(path).require_layout()
    weights = load_file(path / "model.safetensors")
    renamed = {name.replace("mlp.gate_proj", "block_sparse_moe.gate"): w for name, w in weights.items()}
    save_file(renamed, path / "model.safetensors")
    with pytest.raises(UnsupportedArchitecture, match=r"hold no mlp\.gate_proj\.weight"):
        StreamedModel(path).require_layout()


def test_a_full_gpu_has_a_name() -> None:
    @borrowed_device("testing")
    def full() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 40.00 GiB.")

    with pytest.raises(DeviceMemoryError, match="while testing") as refused:
        full()
    assert "--device cpu" in str(refused.value.hint)


def test_torch_leaves_no_setting_behind_for_tools() -> None:
    import os

    assert os.environ.get("OMP_WAIT_POLICY") != "PASSIVE"
