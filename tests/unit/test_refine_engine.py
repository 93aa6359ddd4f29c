"""A whole refinement of tiny models: better where it can be proved, and else the file that came in."""

from __future__ import annotations

import json
import time
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGUFWriter
from gguf.constants import GGMLQuantizationType
from gguf.quants import quantize

from ggufkit.core.errors import CheckpointError, GgufError, Interrupted
from ggufkit.core.progress import SilentReporter
from ggufkit.layers import StreamedModel, to_file_rows
from ggufkit.llama.gguf import read_header
from ggufkit.refine.engine import RefineInputs, RefineResult, refine_gguf
from ggufkit.refine.options import RefineOptions
from ggufkit.refine.pace import Pace, Part
from ggufkit.refine.solve import solve
from ggufkit.refine.tensors import Pair
from ggufkit.texts.calibration import Calibration
from tests import tiny

HEADS = (4, 2)
RNG = np.random.default_rng(0)


def write_gguf(checkpoint: Path, path: Path, kind: str | None) -> Path:
    """The GGUF of a tiny checkpoint: F16, or its linears and embedding in `kind`."""
    model = StreamedModel(checkpoint, "cpu")
    writer = GGUFWriter(path, "llama")
    writer.add_block_count(model.n_layers)
    matrices_ = {"token_embd.weight": model.shards.read("model.embed_tokens.weight")}
    for index in range(model.n_layers):
        layer = model.load_layer(index)
        for linear in model.linears(layer, index):
            weight = layer.get_submodule(linear.module).weight
            assert isinstance(weight, torch.Tensor)
            matrices_[linear.tensor] = to_file_rows(weight, linear.row_heads)
        writer.add_tensor(f"blk.{index}.attn_norm.weight", np.ones(model.width, np.float32))
    writer.add_tensor("output_norm.weight", np.ones(model.width, np.float32))
    writer.add_tensor("output.weight", model.shards.read("lm_head.weight").numpy().astype(np.float16))
    for name, weight in matrices_.items():
        values = weight.numpy().astype(np.float32)
        if kind:
            type_ = GGMLQuantizationType[kind]
            writer.add_tensor(name, quantize(values, type_), raw_dtype=type_)
        else:
            writer.add_tensor(name, values.astype(np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def tokens(samples: int, vocabulary: int = 300, length: int = 64, seed: int = 0) -> np.ndarray[Any, Any]:
    """Random ids of which few are frequent, as in text."""
    rng = np.random.default_rng(seed)
    return (rng.random((samples, length)) ** 2 * vocabulary).astype(np.int32)


CALIBRATION = Calibration(tokens(80), tokens(16, seed=1), "text.txt", "x", 42)


class Case:
    """A tiny checkpoint, its F16 GGUF and its Q4_0 GGUF."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.checkpoint = tiny.write_llama(root / "tiny", width=128)
        self.base = write_gguf(self.checkpoint, root / "base.gguf", None)
        self.quantized = write_gguf(self.checkpoint, root / "q.gguf", "Q4_0")
        self.out, self.reporter = root / "out.gguf", SilentReporter()

    def refine(self, calibration: Calibration = CALIBRATION, **changes: Any) -> RefineResult:
        """Refine it, with some of the arguments changed."""
        names = [f.name for f in fields(RefineOptions)]
        options = RefineOptions(**{"device": "cpu"} | {n: changes.pop(n) for n in names if n in changes})
        out = changes.pop("out", self.out)
        inputs = RefineInputs(self.quantized, self.base, self.checkpoint, calibration)
        return refine_gguf(
            replace(inputs, **changes), out, options, state_dir=self.root / "state", reporter=self.reporter
        )


@pytest.fixture
def case(tmp_path: Path, private_cache: Path) -> Case:
    """One case for each test."""
    return Case(tmp_path)


def logits(case: Case, file: Path | None) -> torch.Tensor:
    """The model's answers to text that it was not calibrated on, with the weights of a file or with its own."""
    model = StreamedModel(case.checkpoint, "cpu")
    pair = Pair(file, case.base) if file else None
    hidden = model.embed(tokens(8, seed=7))
    for index in range(model.n_layers):
        layer = model.load_layer(index)
        for linear in model.linears(layer, index) if pair else []:
            assert pair is not None
            stored = pair.stored(linear.tensor)
            weight = stored if linear.row_heads is None else _unpermute(stored, linear.row_heads)
            layer.get_submodule(linear.module).load_state_dict({"weight": weight})
        hidden = model.forward(index, layer, hidden)
    return model.logits(hidden)


def _unpermute(weight: torch.Tensor, heads: int) -> torch.Tensor:
    return weight.reshape(heads, -1, 2, weight.shape[1]).transpose(1, 2).reshape(weight.shape)


def divergence(case: Case, file: Path) -> float:
    """Mean KL divergence of a file from the checkpoint."""
    p, q = (logits(case, f).log_softmax(-1) for f in (None, file))
    return float((p.exp() * (p - q)).sum(-1).mean())


@pytest.mark.parametrize("sequential", [True, False])
def test_the_refined_file_is_nearer_to_the_original(case: Case, sequential: bool) -> None:
    report = case.refine(sequential=sequential)
    assert report.n_refined == 14
    assert report.untouched == {"token_embd.weight": "the embedding and the output stay as they are"}
    assert all(o.after < o.before for o in report.outcomes)
    assert divergence(case, case.out) < 0.75 * divergence(case, case.quantized)
    before, after = read_header(case.quantized), read_header(case.out)
    assert [(t.name, t.type, t.n_bytes) for t in after.tensors] == [
        (t.name, t.type, t.n_bytes) for t in before.tensors
    ]
    assert after.metadata["general.refined.tensors"] == 14
    assert after.metadata["general.refined.calibration"] == "80 samples of 64 tokens, text.txt"
    assert not (case.root / "state").exists()


def test_a_killed_run_goes_on_and_ends_with_the_same_file(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    case.refine()
    whole = case.out.read_bytes()
    solved: list[str] = []
    killers = ["blk.1.attn_output.weight"]
    real = solve

    def dies_once(*args: Any) -> Any:
        name = args[3]
        if name in killers:
            killers.remove(name)
            raise Interrupted("killed")
        solved.append(name)
        return real(*args)

    monkeypatch.setattr("ggufkit.refine.matrices.solve", dies_once)
    with pytest.raises(Interrupted):
        case.refine(device="auto")
    assert case.out.read_bytes() == whole
    case.out.unlink()
    solved.clear()
    case.refine(device="cpu")  # as after a GPU whose memory ran out
    assert solved == ["blk.1.attn_output.weight", "blk.1.ffn_gate.weight", "blk.1.ffn_down.weight"]
    assert case.out.read_bytes() == whole


def test_a_killed_run_goes_on_with_the_same_checkpoint_only(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    solved: list[str] = []

    def dies_at_the_second(*args: Any) -> Any:
        solved.append(args[3])
        if len(solved) > 1:
            raise Interrupted("killed")
        return solve(*args)

    monkeypatch.setattr("ggufkit.refine.matrices.solve", dies_at_the_second)
    with pytest.raises(Interrupted):
        case.refine()
    config = case.checkpoint / "config.json"
    config.write_text(config.read_text().replace("1e-06", "1e-05"))
    with pytest.raises(Interrupted):
        case.refine()
    assert solved[2] == solved[0], "from the beginning"


def test_text_that_repeats_itself_changes_nothing(case: Case) -> None:
    sentence = np.tile(tokens(1, length=23)[0], 100)
    rows = np.stack([sentence[i * 7 % 23 : i * 7 % 23 + 64] for i in range(96)])
    report = case.refine(replace(CALIBRATION, samples=rows[:80], held_out=rows[80:]))
    assert report.n_refined == 0
    assert "repeats itself" in case.reporter.warnings[0]
    before, after = read_header(case.quantized), read_header(case.out)
    assert case.quantized.read_bytes()[before.data_offset :] == case.out.read_bytes()[after.data_offset :]


def test_a_matrix_that_gets_no_better_stays(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    real = solve

    def spoils(grid: Any, *args: Any) -> Any:
        solved = real(grid, *args)
        if args[2] == "blk.1.ffn_down.weight":
            solved.level.zero_()
        return solved

    monkeypatch.setattr("ggufkit.refine.matrices.solve", spoils)
    report = case.refine()
    assert report.untouched["blk.1.ffn_down.weight"] == "no better on held-out text"
    old, new = Pair(case.quantized, case.base), Pair(case.out, case.base)
    for name in ("blk.1.ffn_down.weight", "blk.1.ffn_up.weight"):
        assert np.array_equal(old.raw(name), new.raw(name)) == (name == "blk.1.ffn_down.weight")


def test_inputs_that_few_tokens_reach_teach_nothing(case: Case) -> None:
    report = case.refine(replace(CALIBRATION, samples=CALIBRATION.samples[:1]))
    assert report.n_refined == 0
    assert "only 64 calibration tokens" in report.untouched["blk.0.attn_q.weight"]


@pytest.mark.parametrize("act_order", ["on", "off"])
def test_either_order_of_columns_serves(case: Case, act_order: str) -> None:
    report = case.refine(act_order=act_order)
    assert report.n_refined == 14
    assert divergence(case, case.out) < 0.75 * divergence(case, case.quantized)


def test_progress_says_how_long_it_will_take(case: Case) -> None:
    notes: list[str] = []

    class Watched:
        def update(self, done: float, total: float | None = None, note: str = "") -> None:
            notes.append(note)

    pace = Pace(Watched(), first=1, total=5, started=time.monotonic() - 60)
    pace.at(1, "blk.1.attn_q.weight")
    pace.at(2, "blk.2.attn_q.weight")
    Part(pace, first=3, worth=0.1, what="blk.4.attn_q.weight").at(10)
    assert notes == ["blk.1.attn_q.weight", "blk.2.attn_q.weight, 3 min left", "blk.4.attn_q.weight, 20 s left"]


def test_another_checkpoint_is_refused(case: Case) -> None:
    other = tiny.write_llama(case.root / "other", width=128, layers=3)
    with pytest.raises(CheckpointError, match="has 2 layers"):
        case.refine(checkpoint=other)
    with pytest.raises(CheckpointError, match="a width of 128"):
        case.refine(checkpoint=tiny.write_llama(case.root / "narrow", width=64))
    beyond = replace(CALIBRATION, samples=CALIBRATION.samples + 100_000)
    with pytest.raises(CheckpointError, match="gives token 100"):
        case.refine(calibration=beyond)
    config = json.loads((case.checkpoint / "config.json").read_text())
    scaled = {k: (v * 2).astype(np.float16) for k, v in tiny.llama_tensors(config, seed=5).items()}
    tiny.save_shards(case.checkpoint, scaled, 1)
    with pytest.raises(CheckpointError, match=r"blk\.0\.attn_q\.weight .* is not what"):
        case.refine()
    assert not case.out.exists()


def test_a_file_that_is_not_quantized_is_refused(case: Case) -> None:
    with pytest.raises(GgufError, match="is not quantized"):
        case.refine(quantized=case.base)
    assert not case.out.exists()


def test_a_refined_file_is_not_refined_again(case: Case) -> None:
    case.refine()
    with pytest.raises(GgufError, match="refined already"):
        case.refine(quantized=case.out, out=case.root / "twice.gguf")
