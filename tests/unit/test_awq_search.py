"""The scale search: its candidates, its score, and that it goes on where it was interrupted."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ggufkit.awq import archs, compat, search
from ggufkit.awq.archs import Divide, Fold
from ggufkit.awq.compat import AutoAwqObjective, candidates, group_size, rounded
from ggufkit.awq.fold import Heads, column_scales
from ggufkit.awq.native import _enough, search_scales
from ggufkit.awq.objectives import CalibratedLayer, GgmlObjective
from ggufkit.awq.search import (
    IDENTITY,
    FoldScales,
    QuantizationScheme,
    Quantizers,
    TensorGain,
)
from ggufkit.awq.search import best_scales as best_of_schemes
from ggufkit.awq.search import candidates as ggml_candidates
from ggufkit.awq.targets import Rows, Target, targets_of
from ggufkit.core.errors import UnsupportedArchitecture
from ggufkit.core.progress import SilentReporter
from ggufkit.layers import Linear, Moments, StreamedModel
from ggufkit.llama.libggml import LibGgml
from ggufkit.texts.calibration import Calibration, Sampling, Tokens, draw, load_tokenizer
from tests import tiny

Floats = NDArray[np.float32]
FOLD = Fold("norm", ("a", "b"), Divide.NORM)
ONE = Heads(1, 1)


class Rounding:
    """Stands in for the toolchain's library: 16 levels for each 32 weights, whatever the type."""

    def __init__(self) -> None:
        self.importances: list[Floats | None] = []

    def rounded(self, weights: Floats, type_name: str, importance: Floats | None = None) -> Floats:
        """Weights after rounding."""
        self.importances.append(importance)
        blocks = weights.reshape(-1, 32)
        step = np.abs(blocks).max(1, keepdims=True) / 7.5 + 1e-12
        return cast(Floats, (np.round(blocks / step) * step).reshape(weights.shape).astype(np.float32))


@pytest.fixture
def lib() -> Any:
    """A stand-in for the library."""
    return Rounding()


@pytest.fixture
def pool() -> Iterator[Executor]:
    """Two threads."""
    with ThreadPoolExecutor(2) as threads:
        yield threads


def problem(scale: torch.Tensor, seed: int = 0) -> list[Target]:
    """Two linears on one input, whose channels are multiplied by `scale` and the weights divided by it."""
    generator = torch.Generator().manual_seed(seed)
    width = len(scale)
    x = torch.randn(400, width, generator=generator) * scale
    moments = Moments(width)
    moments.add(x)
    linears = [Linear(m, f"blk.0.{m}.weight", "in", width) for m in ("a", "b")]
    weights = {m: torch.randn(48, width, generator=generator) / scale for m in ("a", "b")}
    return targets_of(FOLD, weights, linears, {"in": moments})


def best_scales(
    fold: Fold, targets: list[Target], scheme: QuantizationScheme, heads: Heads, quantizers: Quantizers
) -> FoldScales:
    """The best scales for one scheme alone."""
    return best_of_schemes(fold, targets, [scheme], heads, quantizers)[scheme.name]


TYPES = {"blk.0.a.weight": "q4_0", "blk.0.b.weight": "Q4_K"}


def test_the_identity_is_the_first_candidate_and_none_changes_the_size_of_things() -> None:
    found = ggml_candidates(FOLD, problem(torch.ones(64)), ONE)
    assert next(iter(found)) == IDENTITY
    assert all(torch.allclose(s.log().mean(), torch.tensor(0.0), atol=1e-5) for s in found.values())
    assert all((s > 0).all() for s in found.values())


def test_candidates_of_full_strength_undo_an_earlier_scaling() -> None:
    planted = torch.ones(64)
    planted[5], planted[40] = 50.0, 0.02
    plain, changed = (ggml_candidates(FOLD, problem(s), ONE) for s in (torch.ones(64), planted))
    for name in plain:
        if name.startswith("1·"):
            ratio = changed[name] / (plain[name] * planted)
            assert torch.allclose(ratio, ratio.mean().expand(64), rtol=1e-4)


def test_planted_outliers_are_scaled_away(lib: Any, pool: Executor) -> None:
    planted = torch.ones(64)
    planted[5], planted[40] = 60.0, 30.0
    scheme = QuantizationScheme("awq", (TYPES,))
    clean = best_scales(FOLD, problem(torch.ones(64)), scheme, ONE, Quantizers(lib, pool))
    found = best_scales(FOLD, problem(planted), scheme, ONE, Quantizers(lib, pool))
    assert found.before > 4 * clean.before
    assert found.after < 1.2 * clean.before
    assert found.scales is not None
    assert found.scales[5] > 5 * found.scales[6]


def test_the_identity_wins_where_nothing_is_better(pool: Executor) -> None:
    class Exact(Rounding):
        def rounded(self, weights: Floats, type_name: str, importance: Floats | None = None) -> Floats:
            return cast(Floats, weights + np.float32(0.01) * np.abs(weights).max())

    exact = Quantizers(cast(LibGgml, Exact()), pool)
    found = best_scales(FOLD, problem(torch.ones(64)), QuantizationScheme("awq", (TYPES,)), ONE, exact)
    assert found.after <= found.before


def test_importance_is_that_of_the_scaled_input(lib: Any, pool: Executor) -> None:
    targets = problem(torch.ones(64))
    best_scales(FOLD, targets, QuantizationScheme("plain", (TYPES,)), ONE, Quantizers(lib, pool))
    assert set(map(type, lib.importances)) == {type(None)}
    lib.importances.clear()
    best_scales(
        FOLD, targets, QuantizationScheme("awq+imatrix", (TYPES,), importance=True), ONE, Quantizers(lib, pool)
    )
    options = ggml_candidates(FOLD, targets, ONE)
    wanted = [(targets[0].power / s.square()).numpy() for s in options.values()]
    given = [np.asarray(g) for g in lib.importances]
    assert all(any(np.allclose(w, g) for w in wanted) for g in given)
    assert any(np.allclose(wanted[0], g) for g in given)
    assert len({g.tobytes() for g in given}) == len(options)


def test_several_types_count_by_their_mean(lib: Any, pool: Executor) -> None:
    both = best_scales(
        FOLD, problem(torch.ones(64)), QuantizationScheme("awq", (TYPES, TYPES)), ONE, Quantizers(lib, pool)
    )
    one = best_scales(
        FOLD, problem(torch.ones(64)), QuantizationScheme("awq", (TYPES,)), ONE, Quantizers(lib, pool)
    )
    mixed = best_scales(
        FOLD, problem(torch.ones(64)), QuantizationScheme("awq", (TYPES, {})), ONE, Quantizers(lib, pool)
    )
    assert both.before == pytest.approx(one.before)
    assert mixed.before == pytest.approx(one.before / 2)


def test_a_coarse_type_counts_no_more_than_a_fine_one(pool: Executor) -> None:
    class Coarse(Rounding):
        def rounded(self, weights: Floats, type_name: str, importance: Floats | None = None) -> Floats:
            made = super().rounded(weights, type_name, importance)
            fine, coarse = weights + np.float32(0.01) * (made - weights), weights * np.float32(0.5)
            return cast(Floats, coarse if type_name == "Q2_K" else fine)

    planted = torch.ones(64)
    planted[5] = 60.0
    coarse = dict.fromkeys(TYPES, "Q2_K")
    scheme = QuantizationScheme("awq", (TYPES, coarse))
    quantizers = Quantizers(cast(LibGgml, Coarse()), pool)
    found = best_scales(FOLD, problem(planted), scheme, ONE, quantizers)
    alone = best_scales(FOLD, problem(planted), QuantizationScheme("awq", (TYPES,)), ONE, quantizers)
    assert found.candidate == alone.candidate != IDENTITY


def test_schemes_share_what_is_rounded(lib: Any, pool: Executor) -> None:
    targets, quantizers = problem(torch.ones(64)), Quantizers(lib, pool)
    one = QuantizationScheme("awq", (TYPES,))
    alone = best_of_schemes(FOLD, targets, [one], ONE, quantizers)
    rounded = len(lib.importances)
    lib.importances.clear()
    again = QuantizationScheme("awq-again", (TYPES, TYPES))
    both = best_of_schemes(FOLD, targets, [one, again, QuantizationScheme("floats", ({},))], ONE, quantizers)
    assert len(lib.importances) == rounded
    assert both["awq"].candidate == alone["awq"].candidate == both["awq-again"].candidate
    assert both["floats"] == FoldScales(None, IDENTITY, 0.0, 0.0)


@pytest.mark.parametrize("outliers", [(1.0, 1.0), (60.0, 0.1)])
def test_what_few_rows_say_of_candidates_is_what_rounding_leaves(
    monkeypatch: pytest.MonkeyPatch, lib: Any, pool: Executor, outliers: tuple[float, float]
) -> None:
    monkeypatch.setattr(search, "_FEW", Rows(0, fewest=16))
    planted = torch.ones(64)
    planted[5], planted[40] = outliers
    targets, rounding = problem(planted), Rounding()
    left = {
        name: sum(
            t.output_power(torch.from_numpy(rounding.rounded((t.weight * s).numpy(), "Q4_0")) / s - t.weight)
            / t.output_power(t.weight)
            for t in targets
        )
        for name, s in ggml_candidates(FOLD, targets, ONE).items()
    }
    found = best_scales(FOLD, targets, QuantizationScheme("awq", (TYPES,)), ONE, Quantizers(lib, pool))
    assert found.after == pytest.approx(left[found.candidate] / len(targets))
    # The best of all, or one that is as good but for a part of what the best gains.
    assert left[found.candidate] - min(left.values()) <= 0.25 * (left[IDENTITY] - min(left.values()))
    assert len(left) == 15


def test_rows_are_evenly_spaced_and_not_too_few() -> None:
    weight = torch.arange(20.0)[:, None].expand(20, 8)
    assert Rows(16, fewest=1).of(weight)[:, 0].tolist() == [0, 19]
    assert Rows(16, fewest=5).of(weight)[:, 0].tolist() == [0, 5, 10, 14, 19]
    assert Rows(1 << 20, fewest=5).of(weight) is weight


def test_each_tensor_is_told_its_outliers_and_what_scales_did(lib: Any, pool: Executor) -> None:
    planted = torch.ones(64)
    planted[5] = 60.0
    targets = problem(planted)
    scheme = QuantizationScheme("awq", (TYPES, {"blk.0.b.weight": "Q4_K"}))
    found = best_scales(FOLD, targets, scheme, ONE, Quantizers(lib, pool))
    assert list(found.tensors) == ["blk.0.a.weight", "blk.0.b.weight"]
    assert all(2000 < (gain.outlier or 0) < 6000 and gain.ratio < 0.5 for gain in found.tensors.values())
    dead = Target(targets[0].linear, targets[0].weight, torch.diag(torch.tensor([1.0] + [0.0] * 63)))
    assert dead.outlier is None


@pytest.mark.parametrize("types", [{}, {"blk.0.a.weight": "F16", "blk.0.b.weight": "bf16"}])
def test_float_types_need_no_scales(lib: Any, pool: Executor, types: dict[str, str]) -> None:
    found = best_scales(
        FOLD, problem(torch.ones(64)), QuantizationScheme("awq", (types,)), ONE, Quantizers(lib, pool)
    )
    assert found == FoldScales(None, IDENTITY, 0.0, 0.0)
    assert not lib.importances


def test_experts_that_no_token_reached_are_left_out() -> None:
    linears = [Linear("a", "t", "seen", 4), Linear("b", "t", "unseen", 4)]
    moments = {"seen": Moments(4, full=False), "unseen": Moments(4, full=False)}
    moments["seen"].add(torch.ones(3, 4))
    targets = targets_of(FOLD, {"a": torch.eye(4), "b": torch.eye(4)}, linears, moments)
    assert [t.linear.module for t in targets] == ["a"]
    assert targets[0].output_power(torch.eye(4)) == pytest.approx(12)


def test_dead_channels_do_not_get_scales_of_their_own(lib: Any, pool: Executor) -> None:
    targets = problem(torch.ones(64))
    dead = Target(targets[0].linear, targets[0].weight.clone(), targets[0].gram.clone())
    dead.weight[:, 3] = 0
    dead.gram[7, :] = dead.gram[:, 7] = 0
    found = ggml_candidates(FOLD, [dead], ONE)
    assert all(torch.isfinite(s).all() for s in found.values())
    assert max(float(s.max() / s.min()) for s in found.values()) < 1e5


def test_kv_channels_share_their_scales() -> None:
    fold = Fold("v", ("o",), Divide.LAST_ROWS, per_kv_channel=True)
    heads = Heads(query=4, kv=2)
    moments = Moments(64)
    moments.add(torch.randn(100, 64) * torch.linspace(1, 9, 64))
    linear = Linear("o", "blk.0.o.weight", "out", 64)
    found = ggml_candidates(fold, targets_of(fold, {"o": torch.randn(8, 64)}, [linear], {"out": moments}), heads)
    scales = found["1·(0.5)"]
    assert scales.shape == (32,)
    columns = column_scales(fold, scales, heads).view(2, 2, 16)
    assert torch.equal(columns[:, 0], columns[:, 1])


def calibration_of(path: Path, samples: int = 6) -> Calibration:
    """A few short samples of the tiny tokenizer's own text."""
    return draw(tiny.TEXT, load_tokenizer(path), Sampling(samples, length=24, held_out=2))


class Recording:
    """An objective that answers with the layer's number, and may fail at one."""

    key = "recording"
    widest_gram = 64
    most_tokens = 1000

    def __init__(self, fails_at: int = -1) -> None:
        self.asked: list[int] = []
        self._fails_at = fails_at

    def search(self, work: CalibratedLayer) -> dict[str, dict[str, FoldScales]]:
        """One fold, scaled by the mean power of its input."""
        if work.index == self._fails_at:
            raise KeyboardInterrupt
        self.asked.append(work.index)
        value = work.moments["attn_in"].diagonal().mean()
        gains = {"blk.0.attn_q.weight": TensorGain(None, 0.5), "blk.0.attn_k.weight": TensorGain(9.0, 0.25)}
        found = {"input_layernorm": FoldScales(torch.full((3,), float(value)), "x", 2.0, 1.0, gains)}
        return {"awq": found | {"mlp.up_proj": FoldScales(None, IDENTITY, 1.0, 1.0)}}


def test_an_interrupted_search_goes_on_after_its_last_whole_layer(tmp_path: Path) -> None:
    path = tiny.write_llama(tmp_path / "tiny", width=64, layers=3)
    model, calibration = StreamedModel(path, "cpu"), calibration_of(path)
    whole = search_scales(model, calibration, Recording(), tmp_path / "whole", SilentReporter())["awq"]
    with pytest.raises(KeyboardInterrupt):
        search_scales(model, calibration, Recording(2), tmp_path / "state", SilentReporter())
    resumed = Recording()
    again = search_scales(model, calibration, resumed, tmp_path / "state", SilentReporter())["awq"]
    assert resumed.asked == [2]
    assert list(again.scales) == [f"model.layers.{i}.input_layernorm" for i in range(3)]
    assert all(torch.equal(again.scales[n], s) for n, s in whole.scales.items())
    assert again.mean_gain == pytest.approx(0.75)
    assert again.found["model.layers.2.input_layernorm"].tensors["blk.0.attn_k.weight"] == TensorGain(9.0, 0.25)


def test_lost_hidden_states_are_made_again(tmp_path: Path) -> None:
    path = tiny.write_llama(tmp_path / "tiny", width=64, layers=3)
    model, calibration = StreamedModel(path, "cpu"), calibration_of(path)
    whole = search_scales(model, calibration, Recording(), tmp_path / "whole", SilentReporter())["awq"]
    with pytest.raises(KeyboardInterrupt):
        search_scales(model, calibration, Recording(2), tmp_path / "state", SilentReporter())
    (tmp_path / "state" / "hidden-2.f32").write_bytes(b"short")
    again = search_scales(model, calibration, Recording(), tmp_path / "state", SilentReporter())["awq"]
    assert all(torch.equal(again.scales[n], s) for n, s in whole.scales.items())


def test_no_more_text_is_run_than_is_enough(tmp_path: Path) -> None:
    path = tiny.write_llama(tmp_path / "tiny", width=64)
    seen: list[int] = []

    class Frugal(Recording):
        most_tokens = 3 * 24

        def search(self, work: CalibratedLayer) -> dict[str, dict[str, FoldScales]]:
            seen.append(work.moments["attn_in"].count)
            return super().search(work)

    model, calibration = StreamedModel(path, "cpu"), calibration_of(path, samples=5)
    search_scales(model, calibration, Frugal(), tmp_path / "s", SilentReporter())
    assert seen == [3 * 24, 3 * 24]
    chosen = _enough(calibration.samples, archs.ARCHITECTURES["LlamaForCausalLM"], 3 * 24)
    assert np.array_equal(chosen, calibration.samples[[0, 2, 4]])
    assert len(_enough(calibration.samples, archs.ARCHITECTURES["Qwen3MoeForCausalLM"], 3 * 24)) == 5


def test_another_calibration_starts_anew(tmp_path: Path) -> None:
    path = tiny.write_llama(tmp_path / "tiny", width=64)
    model = StreamedModel(path, "cpu")
    search_scales(model, calibration_of(path), Recording(), tmp_path / "state", SilentReporter())
    other = Recording()
    search_scales(model, calibration_of(path, samples=5), other, tmp_path / "state", SilentReporter())
    assert other.asked == [0, 1]


def test_wide_inputs_have_their_squares_summed_only(tmp_path: Path) -> None:
    path = tiny.write_llama(tmp_path / "tiny", width=64)
    seen: dict[str, bool] = {}

    class Probe(Recording):
        def search(self, work: CalibratedLayer) -> dict[str, dict[str, FoldScales]]:
            seen.update({key: moments.full for key, moments in work.moments.items()})
            return super().search(work)

    search_scales(StreamedModel(path, "cpu"), calibration_of(path), Probe(), tmp_path / "s", SilentReporter())
    assert seen == {"attn_in": True, "attn_out": True, "mlp_in": True, "mlp_out": False}


def test_progress_grows_to_the_end(tmp_path: Path, lib: Any) -> None:
    path = tiny.write_llama(tmp_path / "tiny", width=64)
    told: list[float] = []

    class Watched(SilentReporter):
        @contextmanager
        def step(self, title: str, total: float | None = None) -> Iterator[Any]:
            yield SimpleNamespace(update=lambda done, total, note: told.append(done / total))

    types = {"blk.0.attn_q.weight": "Q4_0"}
    objective = GgmlObjective([QuantizationScheme("awq", (types,))], lib, 2)
    search_scales(StreamedModel(path, "cpu"), calibration_of(path), objective, tmp_path / "s", Watched())
    assert told == sorted(told)
    assert told[-1] == 1
    assert len(told) > 10


def test_all_goals_are_searched_in_one_run(tmp_path: Path, lib: Any) -> None:
    path = tiny.write_llama(tmp_path / "tiny", width=64)
    model = StreamedModel(path, "cpu")
    types = {f"blk.{i}.{n}.weight": "Q4_0" for i in range(2) for n in ("attn_q", "attn_output", "ffn_down")}
    schemes = [QuantizationScheme("awq", (types,)), QuantizationScheme("awq+imatrix", (types,), importance=True)]
    found = search_scales(
        model, calibration_of(path), GgmlObjective(schemes, lib, 2), tmp_path / "s", SilentReporter()
    )
    assert list(found) == ["awq", "awq+imatrix"]
    names = [n.removeprefix("model.layers.0.") for n in found["awq"].found if ".0." in n]
    assert names == ["input_layernorm", "self_attn.v_proj", "post_attention_layernorm", "mlp.up_proj"]
    assert found["awq"].found["model.layers.0.post_attention_layernorm"].scales is None
    assert 0 < found["awq"].mean_gain <= 1


def test_awq_rounding_keeps_what_16_levels_hold() -> None:
    levels = torch.arange(16.0).repeat(4, 2) * 0.25 - 1.0
    assert torch.allclose(rounded(levels, 32), levels, atol=1e-6)
    noise = torch.randn(8, 64)
    error = (rounded(noise, 32) - noise).abs().view(-1, 32)
    step = (noise.view(-1, 32).amax(1) - noise.view(-1, 32).amin(1)) / 15
    assert (error.amax(1) <= 1.01 * step).all()


def test_autoawq_candidates_are_balanced() -> None:
    found = candidates(torch.rand(64) + 0.1, torch.randn(32, 64), 32)
    assert len(found) == 20
    assert all(float(s.max() * s.min()) == pytest.approx(1, rel=1e-4) for s in found)


@pytest.mark.parametrize(("widths", "size"), [((512, 1536), 128), ((320, 1536), 64), ((96, 64), 32)])
def test_the_group_divides_every_width(widths: tuple[int, ...], size: int) -> None:
    assert group_size(*widths) == size


def test_widths_without_a_group_are_refused() -> None:
    with pytest.raises(UnsupportedArchitecture, match="do not divide"):
        group_size(64, 100)


def test_block_losses_are_what_the_whole_block_puts_out(tmp_path: Path) -> None:
    path = tiny.write_llama(tmp_path / "tiny", width=64)
    model = StreamedModel(path, "cpu")
    tokens: Tokens = calibration_of(path).samples
    seen: dict[str, float] = {}

    class Probe(AutoAwqObjective):
        def search(self, work: CalibratedLayer) -> dict[str, dict[str, FoldScales]]:
            x = work.layer.get_submodule("input_layernorm")(work.hidden.read(0, 99))
            attention = work.layer.get_submodule("self_attn")
            kwargs = model.layer_kwargs(work.index, tokens.shape[1])
            before = attention(x, **kwargs)[0]
            weights = {t: rounded(work.layer.get_parameter(f"{t}.weight").data, 32) for t in work.folds[0].targets}
            with compat._loss(work, work.folds[0]) as loss:
                seen["loss"] = loss(weights)
            for name, weight in weights.items():
                work.layer.get_parameter(f"{name}.weight").data = weight
            seen["wanted"] = float((attention(x, **kwargs)[0] - before).square().mean())
            return {compat.SCHEME: {}}

    search_scales(model, calibration_of(path), Probe(), tmp_path / "state", SilentReporter())
    assert seen["loss"] == pytest.approx(seen["wanted"], rel=1e-4)
    assert seen["wanted"] > 0


def test_the_autoawq_objective_searches_every_fold_that_autoawq_does(tmp_path: Path) -> None:
    path = tiny.write_llama(tmp_path / "tiny", width=64)
    model = StreamedModel(path, "cpu")
    found = search_scales(model, calibration_of(path), AutoAwqObjective(), tmp_path / "state", SilentReporter())
    scales = found[compat.SCHEME].scales
    assert {n.removeprefix("model.layers.0.") for n in scales if ".0." in n} == {
        "input_layernorm",
        "post_attention_layernorm",
        "mlp.up_proj",
    }
