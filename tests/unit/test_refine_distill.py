"""Distillation: nearer to the original on held-out text, or the file as it was refined."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf.constants import GGMLQuantizationType
from gguf.quants import dequantize

from ggufkit.core import machine
from ggufkit.core.errors import Interrupted, ResourceError
from ggufkit.core.records import Manifest
from ggufkit.layers import HiddenStates, StreamedModel
from ggufkit.llama.gguf import read_header
from ggufkit.refine import distill, student
from ggufkit.refine.codecs import CODECS
from ggufkit.refine.grid import Grid, read_grid, write_grid
from ggufkit.refine.options import RefineOptions
from ggufkit.refine.student import Student
from ggufkit.refine.superscales import SuperScales
from ggufkit.refine.tensors import Pair
from ggufkit.report.lineage import Piece
from ggufkit.report.settings import calibrated
from ggufkit.steps.refine import STEP, RefineNotes, params_of
from tests.unit.test_refine_engine import CALIBRATION, Case, divergence, tokens
from tests.unit.test_refine_norms import weaken_output

RNG = np.random.default_rng(0)
FEW = replace(CALIBRATION, samples=tokens(36))


@pytest.fixture
def case(tmp_path: Path, private_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Case:
    """A case, and few and large steps."""
    monkeypatch.setattr(distill, "_BATCH_TOKENS", 256)
    monkeypatch.setattr(distill, "_NORM_RATE", 1e-2)
    return Case(tmp_path)


def grid_of(kind: str, n_rows: int = 3) -> Grid:
    """Blocks of a type with levels and scales of all sizes, and no number in them that is none."""
    codec = CODECS[kind]
    raw = RNG.integers(0, 256, (n_rows, 512 // codec.block * codec.size), np.uint8)
    blocks = raw.reshape(-1, codec.size)
    for at in (codec.d, codec.dmin):
        if at is not None:
            halves = RNG.uniform(0.01, 0.02, len(blocks)).astype(np.float16)
            blocks[:, at : at + 2] = halves.view(np.uint8).reshape(-1, 2)
    return read_grid(codec, raw)


def test_a_distilled_file_is_nearer_to_the_original(case: Case) -> None:
    weaken_output(case.quantized)
    case.refine(FEW)
    refined, before = case.out.read_bytes(), divergence(case, case.out)
    report = case.refine(FEW, distill=True)
    assert report.tuning is not None
    assert report.tuning.steps > 0
    assert report.tuning.after < 0.95 * report.tuning.before
    assert divergence(case, case.out) < before
    assert case.out.read_bytes() != refined
    header = read_header(case.out)
    assert header.metadata["general.refined.distilled_tensors"] == len(report.tuning.blocks) > 0
    assert [(t.name, t.type, t.n_bytes) for t in header.tensors] == [
        (t.name, t.type, t.n_bytes) for t in read_header(case.quantized).tensors
    ]
    assert "token_embd.weight" in report.tuning.blocks
    assert report.untouched == {}
    assert not (case.root / "state").exists()


def test_what_is_judged_is_what_is_written(case: Case) -> None:
    weaken_output(case.quantized)
    report = case.refine(FEW, distill=True)
    assert report.tuning is not None
    written = Student(StreamedModel(case.checkpoint, "cpu"), Pair(case.out, case.base))
    held = replace(FEW, samples=FEW.held_out).samples
    found = Student(StreamedModel(case.checkpoint, "cpu"), Pair(case.quantized, case.base))
    with torch.no_grad():
        assert not torch.allclose(written.logits(held), found.logits(held), atol=1e-4)
    for name, blocks in report.tuning.blocks.items():
        assert np.array_equal(written.pair.raw(name), blocks)


def test_what_does_not_help_is_refused(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    case.refine(FEW)
    refined = case.out.read_bytes()
    monkeypatch.setattr(distill, "_SCALE_RATE", 1.0)
    report = case.refine(FEW, distill=True)
    assert report.tuning is not None
    assert report.tuning.blocks == {}
    assert report.tuning.vectors == {}
    assert "gains nothing" in case.reporter.warnings[-1]
    assert case.out.read_bytes() == refined
    assert "token_embd.weight" in report.untouched


def test_without_the_memory_it_does_not_start(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "free_memory", lambda: 1000)
    with pytest.raises(
        ResourceError, match=r"--distill holds the model and what it learns: .* of memory, of which 0.977 KiB"
    ) as e:
        case.refine(FEW, distill=True)
    assert "Leave --distill out" in str(e.value.hint)
    assert not (case.root / "state").exists()


def test_after_an_interruption_no_matrix_is_refined_again(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise Interrupted("stopped")

    with monkeypatch.context() as patched:
        patched.setattr(distill._Distillation, "_learn", stop)
        with pytest.raises(Interrupted):
            case.refine(FEW, distill=True)
    matrices = sorted((case.root / "state" / "matrices").glob("*"))
    assert len(matrices) == 14
    before = [file.stat().st_mtime_ns for file in matrices]
    seen: list[list[int]] = []
    learn = distill._Distillation._learn

    def look(self: distill._Distillation, batch: list[int]) -> None:
        seen.append([file.stat().st_mtime_ns for file in matrices])
        learn(self, batch)

    monkeypatch.setattr(distill._Distillation, "_learn", look)
    case.refine(FEW, distill=True)
    assert seen[0] == before


@pytest.mark.parametrize("kind", ["Q2_K", "Q3_K", "Q4_K", "Q6_K", "Q4_0", "Q4_1", "IQ4_XS", "IQ3_S"])
def test_super_scales_start_where_the_file_is_and_stay_in_its_format(kind: str) -> None:
    grid = grid_of(kind)
    before, raw = grid.weights().clone(), write_grid(grid)
    level, scale = grid.level.clone(), grid.scale.clone()
    original = 1.05 * before
    scales = SuperScales(grid)
    scales.round()
    assert np.array_equal(scales.raw(), raw)
    adam = torch.optim.Adam(scales.shares, lr=0.01)
    for _ in range(4):
        scales.learn(grid.weights() - original)
        adam.step()
        scales.round()
    stored = torch.from_numpy(np.array(dequantize(scales.raw(), GGMLQuantizationType[kind])))
    assert torch.equal(stored.T, grid.weights())
    assert torch.equal(grid.level, level)
    assert torch.equal(grid.scale, scale)
    assert float((stored.T - original).square().mean()) < 0.9 * float((before - original).square().mean())


def test_gradients_are_those_of_the_weights() -> None:
    grid = grid_of("Q4_K")
    scales = SuperScales(grid)
    slope = torch.randn_like(grid.weights())
    scales.learn(slope.clone())
    of_d, of_dmin = (torch.zeros_like(grid.d).requires_grad_() for _ in range(2))
    steps, offsets = grid.d * (1 + of_d) * grid.scale, -grid.dmin * (1 + of_dmin) * grid.least
    weights = steps[:, :, None] * grid.level.view(2, 8, 32, -1) + offsets[:, :, None]
    (weights * slope.view(weights.shape)).sum().backward()  # type: ignore[no-untyped-call]
    for found, expected in zip(scales.shares, (of_d, of_dmin), strict=True):
        assert found.grad is not None
        assert expected.grad is not None
        assert torch.allclose(found.grad, expected.grad, rtol=1e-3, atol=1e-4)


def test_a_scale_that_would_overflow_stays() -> None:
    grid = grid_of("Q4_0")
    grid.d.fill_(60000.0)
    scales = SuperScales(grid)
    grid.d.fill_(0.0)
    scales.shares[0].data.fill_(0.5)
    scales.round()
    assert float(grid.d.min()) > 59000


def test_the_original_is_asked_by_parts_and_a_twelfth_is_held_out(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = StreamedModel(case.checkpoint, "cpu")
    hidden = case_hidden(case, model)
    original = student.Original(model, FEW.samples, 30, hidden)
    assert original.held_out == [11, 23, 30, 31, 32, 33, 34, 35]
    assert len(original.given) == 28
    own = Student(model, Pair(case.base, case.base))
    assert float(original.judge(own, original.held_out).abs().max()) < 1e-4
    monkeypatch.setattr(student, "LOGITS_AT_ONCE", 8 * 64 * model.n_vocab)
    assert [len(part) for part in original.parts(original.given)] == [8, 8, 8, 4]
    batch = list(student.batches(original.given, 5, 12))
    assert sorted(itertools.chain(*batch[:5], batch[5][:3])) == original.given
    assert {len(chosen) for chosen in batch} == {5}


def test_a_recipe_without_it_is_that_of_earlier_versions() -> None:
    assert set(params_of(RefineOptions())) == {"sequential", "act_order", "include_output", "tune_norms"}
    assert params_of(RefineOptions(distill=True))["distill"] is True


def test_manifest_and_report_say_what_came_of_it() -> None:
    assert "distilled" not in RefineNotes().to_notes()
    found = {"before": 0.06432, "after": 0.06314, "stderr": 0.00016, "steps": 30}
    notes = RefineNotes(distilled=found).to_notes()
    made = Manifest(1, STEP, 1, {}, {}, None, [], {}, "", 1.0, notes)
    said = "KL divergence 0.06432, then 0.06314 ± 0.00016 on held-out text"
    assert ("Distilled", said) in calibrated([Piece(Path("m.gguf"), made)])
    vain = replace(made, notes=RefineNotes(distilled=found | {"steps": 0}).to_notes())
    assert ("Distilled", f"{said}: not sure, so not kept") in calibrated([Piece(Path("m.gguf"), vain)])


def case_hidden(case: Case, model: StreamedModel) -> HiddenStates:
    """The original's states after its last layer."""
    states = HiddenStates(case.root / "hidden", FEW.samples.shape, model.width)
    hidden = model.embed(FEW.samples)
    for index in range(model.n_layers):
        hidden = model.forward(index, model.load_layer(index), hidden)
    states.write(0, hidden)
    return states
