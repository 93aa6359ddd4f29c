"""The timeline of a build, from its manifests."""

from __future__ import annotations

from pathlib import Path

from ggufkit.core.manifest import SCHEMA, write_manifest
from ggufkit.core.records import Json, Manifest
from ggufkit.report import plots
from ggufkit.report.timeline import Span, spans
from ggufkit.steps.step import Workspace


def made(path: Path, step: str, started: str, seconds: float, **facts: Json) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    notes = {"tool_s": facts["tool_s"]} if "tool_s" in facts else {}
    params = {"backend": facts["backend"]} if "backend" in facts else {}
    write_manifest(path, Manifest(SCHEMA, step, 1, {}, params, None, [], {}, started, seconds, notes))


def build(root: Path) -> Path:
    work = Workspace(root)
    made(root / "m-F16.gguf", "convert", "2026-11-20T08:00:00.000+00:00", 2.0)  # long before
    made(root / "m-Q4_0.gguf", "quantize", "2026-11-20T10:00:00.500+00:00", 2.0)
    made(root / "m-Q8_0.gguf", "quantize", "2026-11-20T10:00:01.000+00:00", 1.0)
    made(work.private / "m-F16.imatrix", "imatrix", "2026-11-20T10:00:00.000+00:00", 4.0, backend="cuda")
    divergence = work.measurements / "m-Q4_0.divergence.json"
    made(divergence, "divergence", "2026-11-20T10:00:15.000+00:00", 0.0, backend="cuda", tool_s=10.0)
    return root


def test_spans_of_the_last_build(tmp_path: Path) -> None:
    assert spans(build(tmp_path), "m") == [
        Span("importance matrix F16", "CUDA", 0.0, 4.0),
        Span("quantize Q4_0", "CPU", 0.5, 2.0),
        Span("quantize Q8_0", "CPU", 1.0, 1.0),
        Span("KL divergence Q4_0", "CUDA", 5.0, 10.0),
    ]


def test_a_drawing(tmp_path: Path) -> None:
    drawn = plots.timeline(spans(build(tmp_path), "m"))
    assert drawn is not None
    assert "KL divergence Q4_0: 10.0 s on CUDA" in drawn
    assert plots.timeline([]) is None
