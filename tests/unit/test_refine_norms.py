"""Tuning of norms: nearer to the original on held-out text, or nothing at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ggufkit.layers import StreamedModel
from ggufkit.llama.gguf import read_header
from ggufkit.refine import norms
from ggufkit.refine.student import Student
from ggufkit.refine.tensors import Pair
from tests.unit.test_refine_engine import Case, logits, tokens

NAMES = {"blk.0.attn_norm.weight", "blk.1.attn_norm.weight", "output_norm.weight"}


@pytest.fixture
def case(tmp_path: Path, private_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Case:
    """A case, and few and large steps."""
    monkeypatch.setattr(norms, "_STEPS", 30)
    monkeypatch.setattr(norms, "_CHECK_EVERY", 10)
    monkeypatch.setattr(norms, "_BATCH_TOKENS", 512)
    monkeypatch.setattr(norms, "_RATE", 3e-3)
    return Case(tmp_path)


def vectors(path: Path) -> dict[str, np.ndarray[tuple[int], np.dtype[np.float32]]]:
    """The F32 vectors of a file."""
    header, data = read_header(path), path.read_bytes()
    return {
        t.name: np.frombuffer(data, np.float32, t.n_bytes // 4, t.offset)
        for t in header.tensors
        if t.type == "F32"
    }


def weaken_output(path: Path) -> None:
    """Make the output matrix, which is not refined, smaller: a larger norm before it makes up for that."""
    data, output = bytearray(path.read_bytes()), read_header(path).by_name["output.weight"]
    weaker = np.frombuffer(data, np.float16, output.n_bytes // 2, output.offset) * np.float16(0.8)
    data[output.offset : output.offset + output.n_bytes] = weaker.tobytes()
    path.write_bytes(data)


def test_tuned_norms_bring_the_answers_nearer(case: Case) -> None:
    weaken_output(case.quantized)
    report = case.refine(tune_norms=True)
    assert report.tuning is not None
    assert report.tuning.steps > 0
    assert report.tuning.after < 0.95 * report.tuning.before
    before, after = vectors(case.quantized), vectors(case.out)
    assert set(report.tuning.vectors) == set(before) == NAMES
    for name, values in after.items():
        assert np.array_equal(values, report.tuning.vectors[name])
        assert not np.array_equal(values, before[name])
        assert np.abs(values - before[name]).max() < 0.2
    assert after["output_norm.weight"].mean() > 1.02
    assert read_header(case.out).metadata["general.refined.tuned_vectors"] == 3
    assert not (case.root / "state").exists()


def test_what_does_not_help_is_refused(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    case.refine()
    plain = vectors(case.out)
    monkeypatch.setattr(norms, "_RATE", 3.0)
    report = case.refine(tune_norms=True)
    assert report.tuning is not None
    assert report.tuning.vectors == {}
    assert "gains nothing" in case.reporter.warnings[-1]
    for name, values in vectors(case.out).items():
        assert np.array_equal(values, plain[name])


def test_a_vector_that_the_checkpoint_holds_otherwise_stays(case: Case) -> None:
    data = bytearray(case.base.read_bytes())
    norm = read_header(case.base).by_name["blk.1.attn_norm.weight"]
    data[norm.offset : norm.offset + norm.n_bytes] = np.linspace(1, 2, 128, dtype=np.float32).tobytes()
    case.base.write_bytes(data)
    student = Student(StreamedModel(case.checkpoint, "cpu"), Pair(case.quantized, case.base))
    assert set(student.vectors) == NAMES - {"blk.1.attn_norm.weight"}


def test_the_student_answers_as_the_quantized_file_does(case: Case) -> None:
    exact = Student(StreamedModel(case.checkpoint, "cpu"), Pair(case.base, case.base))
    rounded = Student(StreamedModel(case.checkpoint, "cpu"), Pair(case.quantized, case.base))
    ids = tokens(8, seed=7)
    with torch.no_grad():
        assert torch.allclose(exact.logits(ids), logits(case, None), atol=1e-4)
        off = rounded.logits(ids) - exact.logits(ids)
        assert 1e-4 < float(off.square().mean() / exact.logits(ids).square().mean()) < 0.2
