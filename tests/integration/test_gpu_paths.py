"""What a GPU changes in a build, run by the CPU build of the tools and a made-up list of devices.

Nothing here runs CUDA, and no result says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import ggufkit
from ggufkit.core import process
from ggufkit.core.errors import DeviceMemoryError
from ggufkit.core.process import Surroundings
from ggufkit.core.records import GgufFile, Toolchain
from ggufkit.llama import cuda, toolchain
from ggufkit.llama.cuda import Gpu
from ggufkit.measure import divergence
from ggufkit.measure.evaluation import Evaluation
from ggufkit.measure.logits import passes, strategy
from ggufkit.measure.logits.passes import Passes
from ggufkit.measure.logits.strategy import FAN_OUT, Strategy
from ggufkit.report.timeline import spans
from ggufkit.steps import offload
from ggufkit.steps.session import Session
from ggufkit.steps.step import Workspace
from tests import tiny

GIB = 1 << 30
GPUS = tuple(Gpu(i, f"GPU-{i}", "Made-up GPU", "90", 79 * GIB) for i in range(2))
TYPES = ("q4_0", "q5_0", "q8_0")


def build(model: Path, out: Path, **more: object) -> pd.DataFrame:
    text = tiny.text_file(out.with_suffix(".txt"), 600)
    request = ggufkit.BuildRequest(
        str(model), out, TYPES, corpus=str(text), ctx=64, chunks=12, bench=False, threads=8
    )
    ggufkit.build(replace(request, **more))  # type: ignore[arg-type]
    table: pd.DataFrame = ggufkit.load_results(out).set_index("type")
    return table


@pytest.fixture
def on_gpu(tools: Toolchain, monkeypatch: pytest.MonkeyPatch) -> Toolchain:
    """The CPU's tools, taken for a CUDA build on a machine with two GPUs."""
    named = replace(tools, backend="cuda")
    monkeypatch.setattr(toolchain, "find", lambda *_: named)
    monkeypatch.setattr(cuda, "gpus", lambda: GPUS)
    return named


def test_the_same_figures(base: Path, tmp_path: Path, tools: Toolchain) -> None:
    """As one after the other and by a file, with the batches of a GPU: others move the digits of quantized files."""
    batches = offload.compute(Session(replace(tools, backend="cuda"), Workspace(tmp_path)), None, 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(toolchain, "find", lambda *_: tools)
        patch.setattr(offload, "compute", lambda *_: replace(batches, backend="cpu"))
        serial = build(base, tmp_path / "cpu")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(toolchain, "find", lambda *_: replace(tools, backend="cuda"))
        patch.setattr(cuda, "gpus", lambda: GPUS)
        beside = build(base, tmp_path / "gpu")
    same = ["ppl", "kld_mean", "kld_p99", "same_top_p", "n_chunks", "sha256"]
    pd.testing.assert_frame_equal(serial[same], beside[same])
    assert set(beside["backend"]) == {"cpu"}, "what really ran is said"
    log = (tmp_path / "gpu" / "logs" / "divergence-tiny-llama-Q4_0.log").read_text()
    assert "-b 1024 -ub 1024" in log
    assert "logits-" in log, "files are compared through named pipes"
    assert {"KL divergence Q4_0", "quantize Q8_0"} <= {s.label for s in spans(tmp_path / "gpu", "tiny-llama")}


@pytest.mark.usefixtures("on_gpu")
def test_groups_when_memory_holds_few(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(divergence, "at_once", lambda *_: 2)
    table = build(base, tmp_path / "out")
    assert table["kld_mean"].drop("F16").notna().all()
    assert table["ppl"].notna().all()


@pytest.mark.usefixtures("on_gpu")
def test_a_full_gpu_ends_in_one_file_at_a_time_and_fewer_layers(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, tried = passes.by_pipes, []

    def full(first: GgufFile, files: Sequence[GgufFile], evaluation: Evaluation, *, pinned: bool) -> Passes:
        tried.append((len(files), evaluation.options.ngl))
        if len(files) > 1 or evaluation.options.ngl is None:
            raise DeviceMemoryError("The GPU ran out of memory while evaluating.")
        return real(first, files, evaluation, pinned=pinned)

    monkeypatch.setattr(passes, "by_pipes", full)
    table = build(base, tmp_path / "out")
    assert table["kld_mean"].drop("F16").notna().all()
    assert tried[:3] == [(3, None), (1, None), (1, 1)]


@pytest.mark.usefixtures("on_gpu")
def test_what_was_measured_before_the_gpu_was_full_stays(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, tried = passes.by_pipes, []

    def full_later(first: GgufFile, files: Sequence[GgufFile], evaluation: Evaluation, *, pinned: bool) -> Passes:
        tried.append([f.type for f in files])
        if len(tried) == 2:
            raise DeviceMemoryError("The GPU ran out of memory while evaluating.")
        return real(first, files, evaluation, pinned=pinned)

    monkeypatch.setattr(passes, "by_pipes", full_later)
    monkeypatch.setattr(strategy, "choose", lambda *_: Strategy(FAN_OUT, 2, 12, "two fit"))
    monkeypatch.setattr(divergence, "at_once", lambda *_: 3)
    table = build(base, tmp_path / "out")
    assert table["kld_mean"].drop("F16").notna().all()
    assert tried == [["Q4_0", "Q5_0"], ["Q8_0"], ["Q8_0"]]


@pytest.mark.usefixtures("on_gpu")
def test_perplexity_alone_on_two_gpus(base: Path, tmp_path: Path) -> None:
    table = build(base, tmp_path / "out", kld=False)
    assert table["ppl"].notna().all()
    assert table["kld_mean"].isna().all()


@pytest.mark.usefixtures("on_gpu")
def test_what_computes_on_the_cpu_starts_no_gpu(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, ran = process.run, []

    def run(argv: Sequence[str | Path], **how: Any) -> process.ToolOutput:
        where = how.get("surroundings") or Surroundings()
        ran.append((Path(argv[0]).name, tuple(map(str, argv[1:])), where.env))
        return real(argv, **how)

    monkeypatch.setattr(process, "run", run)
    build(base, tmp_path / "out")
    hidden = {name: env.get("CUDA_VISIBLE_DEVICES") == "-1" for name, _, env in ran}
    assert hidden["llama-quantize"]
    assert not hidden["llama-perplexity"]
    plans = [argv for _, argv, _ in ran if "--dry-run" in argv]
    assert len(plans) == len(set(plans)) >= len(TYPES)
