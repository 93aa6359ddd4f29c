"""Files measured in several contexts and with several KV caches, by the real tools."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from ggufkit.core import process
from ggufkit.core.errors import CorpusError, UsageError
from ggufkit.core.process import ToolOutput
from ggufkit.core.progress import SilentReporter
from ggufkit.pipeline.build import build
from ggufkit.pipeline.plan import plan
from ggufkit.request import BuildRequest
from tests import tiny


@pytest.mark.usefixtures("tools")
def test_one_pass_of_the_base_serves_all_caches_of_a_context(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, out, started = tiny.text_file(tmp_path / "text.txt"), tmp_path / "out", Counter[str]()

    def counted(argv: list[str], **how: Any) -> ToolOutput:
        if "--no-warmup" not in argv:  # of whether a file computes at all
            base_or_file = [kind for kind in ("--save-all-logits", "--kl-divergence") if kind in argv]
            started[base_or_file[0] if base_or_file else Path(argv[0]).name] += 1
        return run(argv, **how)

    run = process.run
    monkeypatch.setattr(process, "run", counted)
    more: dict[str, Any] = {"corpus": str(text), "backend": "cpu", "threads": 2, "chunks": 8, "bench_reps": 1}
    request = BuildRequest(str(base), out, ("q8_0",), ctx="64,128", kv_types="q8_0,q4_0", **more)
    done = build(request)
    assert (started["--save-all-logits"], started["--kl-divergence"]) == (2, 2 * (1 + 2 * 2))
    assert started["llama-bench"] >= 2 + 2 * 2 * 3, "at the start, and behind 64 and 128 tokens with three caches"
    assert [(row.type, row.n_ctx, row.n_chunks, row.kv_type) for row in done.rows] == [
        ("F16", 64, 8, "f16"), ("Q8_0", 64, 8, "f16"),
    ]  # fmt: skip
    lines = list(csv.DictReader((out / "measurements.csv").read_text().splitlines()))
    kld = {
        (x["type"], x["n_ctx"], x["kv_type"]): (float(x["value"]), float(x["stderr"]), x["n_chunks"])
        for x in lines if x["metric"] == "kld_mean"
    }  # fmt: skip
    assert len(kld) == 2 * (1 + 2 * 2)
    assert kld["F16", "128", "q8_0"][0] < kld["F16", "128", "q4_0"][0]
    assert kld["Q8_0", "128", "f16"][2] == "4", "as much text"
    assert all(error > 0 for _, error, _ in kld.values())
    deep = {(x["type"], x["depth"], x["kv_type"]) for x in lines if x["metric"] == "tg_tps" and x["depth"] != "0"}
    assert len(deep) == 2 * 2 * 3
    assert "A KV cache in q8_0 is" in (out / "report.html").read_text()
    assert not list((out / ".ggufkit" / "scratch").glob("*"))
    started.clear()
    assert build(request).made == 0
    assert not started.keys() & {"--save-all-logits", "--kl-divergence", "llama-bench"}, (
        "nothing is measured twice"
    )
    fewer = build(BuildRequest(str(base), out, ("q8_0",), ctx=64, **more))
    assert fewer.made == 0, "what was measured first is where it was"


@pytest.mark.usefixtures("tools")
def test_what_cannot_be_is_refused_before_anything_is_made(base: Path, tmp_path: Path) -> None:
    text = tiny.text_file(tmp_path / "text.txt")
    text.write_text(text.read_text()[:9000])
    request = BuildRequest(str(base), tmp_path / "out", ("q4_0",), corpus=str(text), ctx="64,4096", backend="cpu")
    for refuse in (build, plan):
        with pytest.raises(CorpusError, match=r"too short: it has [\d,]+ tokens, and --ctx 4096 needs 8,192"):
            refuse(request, SilentReporter())
    odd = tiny.write_llama(tmp_path / "odd", width=96)
    with pytest.raises(UsageError, match="heads of 24 elements"):
        plan(BuildRequest(str(odd), tmp_path / "out", corpus=str(text), ctx=64, kv_types="q8_0", backend="cpu"))
    assert not list((tmp_path / "out").glob("*.gguf"))
