"""Which jobs a cell has, what each needs, and what decides them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ggufkit.core.manifest import manifest_path
from ggufkit.measure import metrics
from ggufkit.measure.metrics import Metric
from ggufkit.request import BuildRequest, EvaluationOptions
from ggufkit.sweep import graph, journal
from ggufkit.sweep.at_work import AtWork
from ggufkit.sweep.facts import Facts, File
from ggufkit.sweep.journal import Journal
from ggufkit.sweep.keys import Keys
from ggufkit.sweep.past import Past
from ggufkit.sweep.records import Cell, Job, Outcome
from ggufkit.sweep.station import CPU, GPU, HEAVY, Versions
from ggufkit.sweep.stores import PathStore

FILES = (
    File("plain", "Q4_K_M"),
    File("imatrix", "Q4_K_M", weighed=True),
    File("awq+imatrix", "Q4_K_M", "awq+imatrix", weighed=True),
    File("gptq", "Q4_K_M", weighed=True, after=True, plainer="imatrix"),
)
VERSIONS = Versions("1", "abc")
REQUEST = BuildRequest("owner/model", types="q4_k_m", variants="plain,imatrix,awq+imatrix,gptq", bench=False)


def jobs(request: BuildRequest = REQUEST, facts: Facts | None = None, *, on_gpu: bool = False) -> dict[str, Job]:
    planned = graph.jobs(Cell("m", "", request), facts or Facts(FILES, 1000), on_gpu=on_gpu)
    return {job.id: job for job in planned}


def test_each_job_stands_behind_those_that_it_needs() -> None:
    seen = {"m|fetch||"}
    for job in jobs().values():
        assert seen.issuperset(job.needs)
        seen.add(job.id)
    assert len(seen) == 1 + 1 + 1 + 1 + 2 + 4 + 5 + 1


def test_what_is_shared_is_made_once_and_waited_for() -> None:
    found = jobs()
    assert set(found["m|matrix|awq+imatrix|"].needs) >= {"m|scale||", "m|base|awq+imatrix|"}
    assert "m|quantize|imatrix|Q4_K_M" in found["m|refine|gptq|Q4_K_M"].needs
    assert set(found["m|measure|gptq|Q4_K_M"].needs) >= {"m|measure||", "m|refine|gptq|Q4_K_M"}
    assert set(found["m|finish||"].needs) == {"m|fetch||", *found} - {"m|finish||"}


def test_files_that_share_a_pass_are_measured_by_one_job() -> None:
    found = jobs(facts=Facts(FILES, 1000, together=True))
    measuring = [job for job in found.values() if job.stage == "measure"]
    assert [job.id for job in measuring] == ["m|measure||"]
    assert "m|refine|gptq|Q4_K_M" in measuring[0].needs


def test_a_gpu_does_what_it_is_good_for() -> None:
    found = jobs(on_gpu=True)
    assert GPU in found["m|measure||"].resources
    assert GPU not in found["m|quantize|plain|Q4_K_M"].resources
    assert CPU in found["m|quantize|plain|Q4_K_M"].resources
    assert HEAVY not in found["m|finish||"].resources
    on_cpu = replace(REQUEST, run=replace(REQUEST.run, backend="cpu"))
    assert not any(GPU in job.resources for job in jobs(on_cpu, on_gpu=True).values())


def keys(request: BuildRequest, name: str = "m", profile: str = "") -> dict[str, str]:
    cell = Cell(name, profile, request)
    one = AtWork(cell, 0, Keys.of(cell, VERSIONS))
    one.begin()
    one.plan(Facts(FILES, 1000).to_json(), on_gpu=False)
    return {job.partition("|")[2]: key for job, key in one.keys.items()}


def test_keys_change_with_what_decides_a_job_alone() -> None:
    before = keys(REQUEST)
    after = keys(replace(REQUEST, evaluation=EvaluationOptions(chunks=4, bench=False)), profile="quick")
    changed = {job for job in before if before[job] != after[job]}
    assert {job.partition("|")[0] for job in changed} == {"fetch", "measure", "finish"}


DECIDED = {
    "allow_requantize": (True, "base"), "pre": ("gpt-2", "base"), "mmproj": ("none", "base"),
    "tensor_type": ("attn_v=q8_0", "scale"), "pure": (True, "quantize"), "types_allowed": ("q8_0", "quantize"),
    "calibration_samples": (7, "matrix"), "process_output": (True, "matrix"), "seed": (7, "matrix"),
    "awq_dtype": ("float32", "scale"), "awq_per_type": (True, "scale"), "distill": (True, "refine"),
    "fits": ("1GiB", "fetch"), "split": ("1GiB", "finish"), "fits_ctx": (64, "finish"), "variant_option": ("a.b=1", "scale"),
    "kv_types": ("q8_0", "measure"), "metrics": ("x", "measure"), "tasks_samples": (7, "tasks"), "bench_reps": (7, "bench"),
    "ngl": (3, "measure"), "backend": ("cuda", "base"),
}  # fmt: skip
"""Options, other values than their defaults, and a stage whose jobs these decide."""


@pytest.mark.parametrize("option", DECIDED)
def test_keys_change_with_each_option(option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "find", lambda name: Metric(name, "", ""))
    value, stage = DECIDED[option]
    given: dict[str, Any] = {"types": REQUEST.types, "variants": REQUEST.variants, "smoke": True, "tasks": "arc"}
    before, after = (keys(BuildRequest("owner/model", **one)) for one in (given, {**given, option: value}))
    of_stage = [job for job in before if job.partition("|")[0] == stage]
    assert of_stage
    assert all(before[job] != after[job] for job in of_stage)


def test_speeds_are_those_of_so_many_threads() -> None:
    few, many = (Keys.of(Cell("m", "", REQUEST, threads=n), VERSIONS) for n in (1, 2))
    assert few.job(Job("m", "measure"), {}) == many.job(Job("m", "measure"), {})
    assert few.job(Job("m", "bench"), {}) != many.job(Job("m", "bench"), {})


def test_another_version_of_a_package_decides_what_it_measures(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for version in ("1", "2"):
        metric = Metric("x", "", "", package="other", version=version)
        monkeypatch.setattr(metrics, "find", lambda _name, metric=metric: metric)
        found.append(keys(replace(REQUEST, evaluation=EvaluationOptions(metrics=("x",)))))
    assert found[0]["measure||"] != found[1]["measure||"]


def test_a_matrix_by_another_text_changes_what_is_made_with_it(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("one")
    request = replace(REQUEST, calibration=replace(REQUEST.calibration, text=str(text)))
    before = keys(request)
    text.write_text("other")
    assert all(before[job] != key for job, key in keys(request).items())


def test_a_job_is_done_as_long_as_its_files_are_there(tmp_path: Path) -> None:
    store = PathStore(tmp_path)
    file = store.place("m") / "m-Q4_K_M.gguf"
    file.parent.mkdir()
    file.write_bytes(b"GGUF")
    manifest_path(file).write_text("{}")
    ended = Outcome("m|quantize|plain|Q4_K_M", "done", files=store.push("m", [file, manifest_path(file)]), key="k")
    with Journal(tmp_path / "journal.jsonl") as told:
        told.append(journal.ended(ended))
        told.append(journal.ended(Outcome("m|finish||", "failed", key="k")))

    past = Past(tmp_path / "journal.jsonl", store)

    found = past.outcome(ended.job, "k")
    assert found is not None
    assert (found.state, len(found.files)) == ("fresh", 2)
    assert past.outcome(ended.job, "another") is None
    assert past.outcome("m|finish||", "k") is None
    manifest_path(file).write_text("{ }")  # what is noted later
    assert past.outcome(ended.job, "k") is not None
    file.write_bytes(b"other")
    assert past.outcome(ended.job, "k") is None


def test_tables_are_of_what_is_there() -> None:
    for missed in ("m|fetch||", "m|base||"):
        assert graph.is_in_vain("m|finish||", missed)
    for missed in ("m|base|awq|", "m|quantize|plain|Q8_0", "m|measure||"):
        assert not graph.is_in_vain("m|finish||", missed)
        assert graph.is_in_vain("m|bench|plain|Q8_0", missed)
