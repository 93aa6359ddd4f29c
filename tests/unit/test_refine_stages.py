"""What the stages of a layer keep for each other gives what running the whole layer gives."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ggufkit.layers import HiddenStates, StreamedModel, embed
from ggufkit.refine.stages import TwinLayer
from ggufkit.refine.statistics import Pairing
from ggufkit.refine.twin import Span, TwinHidden
from tests import tiny
from tests.unit.test_refine_engine import tokens

SAMPLES = tokens(20, length=64)


def hidden_states(model: StreamedModel, root: Path, n_samples: int = 16) -> TwinHidden:
    """The original's, and slightly other ones."""
    original, refined = (HiddenStates(root / name, SAMPLES.shape, model.width) for name in ("first", "second"))
    embed(model, SAMPLES, original)
    values = original.read(0, len(SAMPLES))
    refined.write(0, values + 0.01 * torch.randn(values.shape, generator=torch.Generator().manual_seed(0)))
    return TwinHidden(original, refined, n_samples)


@pytest.mark.parametrize("plain", [True, False])
def test_a_layer_in_stages_is_the_layer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plain: bool) -> None:
    if not plain:
        monkeypatch.setattr("ggufkit.refine.stages._PLAIN_RESIDUAL", frozenset())
    model = StreamedModel(tiny.write_llama(tmp_path / "tiny", width=64, layers=1), "cpu")
    hidden = hidden_states(model, tmp_path)
    twin = TwinLayer(model, 0, hidden, tmp_path, lambda _: True)
    first, second = (HiddenStates(tmp_path / f"out{i}", SAMPLES.shape, model.width) for i in (0, 1))
    outputs = TwinHidden(first, second, 16)
    stages = twin.stages()
    assert [stage[0].tensor.split(".")[2] for stage in stages] == ["attn_q", "attn_output", "ffn_gate", "ffn_down"]
    for stage in stages:
        gathered = twin.gather(stage, outputs.original if stage is stages[-1] else None)
        for linear in stage:
            sums = gathered[linear.input]
            assert (sums.moments.count, sums.n_held_out) == (16 * 64, 4 * 64)
            direct = plain and linear.input in ("attn_out", "mlp_out")
            assert sums.pairing is (Pairing.OUTPUT if direct else Pairing.INPUT)
            twin.set_weight(linear, 0.9 * twin.weight(linear))
    twin.finish(outputs)
    assert twin.refined is not None
    assert hidden.refined is not None
    for side, given, made in (
        (twin.original, hidden.original, first),
        (twin.refined, hidden.refined, second),
    ):
        exact = model.forward(0, side.layer, given.read(0, len(SAMPLES)))
        assert torch.allclose(made.read(0, len(SAMPLES)), exact, atol=1e-5)
    twin.close()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["first", "out0", "out1", "second", "tiny"]


@pytest.mark.parametrize("refines", [True, False])
def test_one_side_stands_for_both_where_refinement_takes_no_notice_of_itself(
    tmp_path: Path, refines: bool
) -> None:
    model = StreamedModel(tiny.write_llama(tmp_path / "tiny", width=64, layers=1), "cpu")
    hidden = TwinHidden(hidden_states(model, tmp_path).original, None, 16)
    twin = TwinLayer(model, 0, hidden, tmp_path, lambda _: refines)
    outputs = TwinHidden(HiddenStates(tmp_path / "out", SAMPLES.shape, model.width), None, 16)
    assert [len(stage) for stage in twin.stages()] == ([7] if refines else [])
    for stage in twin.stages():
        gathered = twin.gather(stage, outputs.original)
        assert {sums.pairing for sums in gathered.values()} == {Pairing.ITSELF}
        assert {key: sums.n_held_out for key, sums in gathered.items()} == dict.fromkeys(gathered, 4 * 64)
        assert all(sums.wanted_for(twin.weight(sums.linear)) is None for sums in gathered.values())
    twin.finish(outputs)
    exact = model.forward(0, twin.original.layer, hidden.original.read(0, len(SAMPLES)))
    assert torch.allclose(outputs.original.read(0, len(SAMPLES)), exact, atol=1e-5)


def test_no_batch_mixes_samples_with_held_out_ones(tmp_path: Path) -> None:
    model = StreamedModel(tiny.write_llama(tmp_path / "tiny", width=64, layers=1), "cpu")
    hidden = hidden_states(model, tmp_path, n_samples=17)
    assert list(hidden.spans()) == [Span(0, 16, False), Span(16, 17, False), Span(17, 20, True)]
