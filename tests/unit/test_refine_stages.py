"""What the stages of a layer keep for each other gives what running the whole layer gives."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ggufkit.layers import HiddenStates, StreamedModel, embed
from ggufkit.refine.stages import TwinLayer, batches
from tests import tiny
from tests.unit.test_refine_engine import tokens

SAMPLES = tokens(20, length=64)


def hidden_states(model: StreamedModel, root: Path) -> tuple[HiddenStates, HiddenStates]:
    """The original's, and slightly other ones."""
    original, refined = (HiddenStates(root / name, SAMPLES.shape, model.width) for name in ("first", "second"))
    embed(model, SAMPLES, original)
    values = original.read(0, len(SAMPLES))
    refined.write(0, values + 0.01 * torch.randn(values.shape, generator=torch.Generator().manual_seed(0)))
    return original, refined


@pytest.mark.parametrize("plain", [True, False])
def test_a_layer_in_stages_is_the_layer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plain: bool) -> None:
    if not plain:
        monkeypatch.setattr("ggufkit.refine.stages._PLAIN_RESIDUAL", frozenset())
    model = StreamedModel(tiny.write_llama(tmp_path / "tiny", width=64, layers=1), "cpu")
    hidden = hidden_states(model, tmp_path)
    twin = TwinLayer(model, 0, hidden, 16, tmp_path, lambda _: True)
    outputs = [HiddenStates(tmp_path / f"out{i}", SAMPLES.shape, model.width) for i in (0, 1)]
    stages = twin.stages()
    assert [stage[0].tensor.split(".")[2] for stage in stages] == ["attn_q", "attn_output", "ffn_gate", "ffn_down"]
    for stage in stages:
        gathered = twin.gather(stage, outputs[0] if stage is stages[-1] else None)
        for linear in stage:
            sums = gathered[linear.input]
            assert (sums.moments.count, sums.n_held_out) == (16 * 64, 4 * 64)
            assert sums.direct == (plain and linear.input in ("attn_out", "mlp_out"))
            twin.set_weight(linear, 0.9 * twin.weight(linear))
    twin.finish(1, outputs[1])
    for layer, given, made in zip((twin.original, twin.refined), hidden, outputs, strict=True):
        exact = model.forward(0, layer, given.read(0, len(SAMPLES)))
        assert torch.allclose(made.read(0, len(SAMPLES)), exact, atol=1e-5)
    twin.close()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["first", "out0", "out1", "second", "tiny"]


def test_no_batch_mixes_samples_with_those_kept_apart(tmp_path: Path) -> None:
    model = StreamedModel(tiny.write_llama(tmp_path / "tiny", width=64, layers=1), "cpu")
    original, _ = hidden_states(model, tmp_path)
    seen = [
        (start, len(first), second is first)
        for start, first, second in batches((original, original), 17, model.device)
    ]
    assert seen == [(0, 16, True), (16, 1, True), (17, 3, True)]
