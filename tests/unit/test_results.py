"""Measurements -> rows -> tables: the contract's columns, and missing values that stay missing."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from ggufkit.core.errors import InputError
from ggufkit.core.manifest import read_manifest, write_manifest
from ggufkit.core.records import Manifest
from ggufkit.measure.evaluation import EvalNotes
from ggufkit.measure.measurements import next_number
from ggufkit.report import results, summary_of, tables
from ggufkit.steps.step import Result
from tests.fake_results import FAKES, Fake, write_results

CONTRACT = [
    "name", "variant", "type", "file", "size_bytes", "n_params", "bpw", "n_fallback", "ppl", "ppl_stderr",
    "ppl_base", "ln_ppl_ratio", "ln_ppl_ratio_stderr", "kld_mean", "kld_stderr", "kld_median", "kld_p99",
    "kld_max", "same_top_p", "same_top_p_stderr", "rms_dp", "rms_dp_stderr", "pp_tps", "pp_tps_stddev",
    "tg_tps", "tg_tps_stddev", "eval_tps", "n_ctx", "n_chunks", "corpus_sha256", "backend", "device", "ngl",
    "llama_cpp_commit", "sha256",
]  # fmt: skip
FURTHER = ["cosine_mean", "cosine_stderr", "cosine_min", "kv_type", "format"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = write_results(
        tmp_path_factory.mktemp("results") / "out", [*FAKES, Fake("plain", "Q4_1", None, tg=None)]
    )
    tables.save(results.collect(made), made)
    return made


def test_csv_has_the_contracts_columns_and_dtypes(root: Path) -> None:
    plain = pd.read_csv(root / "results.csv")
    assert list(plain.columns) == CONTRACT + FURTHER
    typed = tables.load_results(root)
    assert str(typed["size_bytes"].dtype) == "Int64"
    assert str(typed["kld_mean"].dtype) == "float64"
    assert str(typed["variant"].dtype) == "string"
    for column in ("n_ctx", "n_chunks", "ngl", "n_fallback"):
        assert str(typed[column].dtype) == "Int64"


def test_missing_is_missing_and_never_zero(root: Path) -> None:
    typed = tables.load_results(root).set_index("file")
    base = typed.loc["tiny-F16.gguf"]
    assert base[["kld_mean", "kld_stderr", "ln_ppl_ratio", "same_top_p", "rms_dp"]].isna().all()
    assert base["ppl_base"] == base["ppl"]
    assert pd.isna(typed.loc["tiny-Q4_1.gguf", "tg_tps"])
    rows = {row["file"]: row for row in json.loads((root / "results.json").read_text())}
    assert rows["tiny-F16.gguf"]["kld_mean"] is None
    assert list(rows["tiny-F16.gguf"]) == CONTRACT + FURTHER


def saved_of(root: Path, file: str, **values: float) -> None:
    """Change what was measured of a file."""
    path = root / ".ggufkit" / "measurements" / file
    found = [{**m, "value": values.get(m["metric"], m["value"])} for m in json.loads(path.read_text())]
    path.write_text(json.dumps(found))


def test_the_ratio_is_of_the_perplexities_in_the_table(tmp_path: Path) -> None:
    """llama.cpp's own is of the base by its saved logits, which are clipped."""
    root = write_results(tmp_path / "out", FAKES[:2])
    saved_of(root, "tiny-F16.perplexity.json", ppl=175.04)
    saved_of(root, "tiny-Q8_0.divergence.json", ppl=174.89, ppl_base=174.11, ln_ppl_ratio=0.00447)
    base, made = results.collect(root)
    assert (base.ppl, base.ppl_base, made.ppl_base) == (175.04, 175.04, 175.04)
    assert made.ln_ppl_ratio == pytest.approx(math.log(174.89 / 175.04))
    assert made.ln_ppl_ratio_stderr == 0.002
    (note,) = summary_of([base, made], root).footnotes
    assert note.startswith(
        "ln(PPL/base) is of the base's own perplexity, 175.0400. By the logits that llama.cpp saves"
    )
    assert "174.1100" in note


def test_where_the_base_was_measured_otherwise_the_tools_ratio_stays(tmp_path: Path) -> None:
    fakes = [replace(FAKES[0], n_chunks=20), FAKES[1]]
    root = write_results(tmp_path / "out", fakes)
    saved_of(root, "tiny-F16.perplexity.json", ppl=29.0)
    assert results.collect(root)[1].ln_ppl_ratio == pytest.approx(0.000209)
    saved_of(root, "tiny-Q8_0.divergence.json", ppl_base=30.6)
    assert summary_of(results.collect(root), root).footnotes == ()


def test_a_table_of_an_earlier_version_is_read(root: Path, tmp_path: Path) -> None:
    pd.read_csv(root / "results.csv")[CONTRACT].to_csv(tmp_path / "results.csv", index=False)
    typed = tables.load_results(tmp_path)
    assert list(typed.columns) == CONTRACT + FURTHER
    assert typed["cosine_mean"].isna().all()
    assert str(typed["cosine_mean"].dtype) == "float64"
    assert typed["kld_mean"].notna().any()


def test_values_survive_the_round_trip(root: Path) -> None:
    typed = tables.load_results(root).set_index("file")
    assert typed.loc["tiny-imatrix-Q4_0.gguf", "kld_mean"] == 0.027633
    assert typed.loc["tiny-imatrix-Q4_0.gguf", "kld_stderr"] == 0.0003
    assert typed.loc["tiny-gptq-Q4_0.gguf", "variant"] == "gptq"


def test_the_latest_way_of_measuring_quality_counts(tmp_path: Path) -> None:
    """A --no-kld run after a KL divergence run: one row never mixes the two."""
    made = write_results(tmp_path / "out", FAKES[:2])
    private = made / ".ggufkit" / "measurements"
    for suffix in ("json", "json.manifest.json"):
        text = (private / f"tiny-Q8_0.divergence.{suffix}").read_text()
        newer = text.replace("2026-01-01", "2026-01-02").replace('"value": 30.6,', '"value": 31.5,')
        (private / f"tiny-Q8_0.perplexity.{suffix}").write_text(newer.replace('"kld_mean"', '"gone"'))
    row = next(r for r in results.collect(made) if r.type == "Q8_0")
    assert row.ppl == 31.5
    assert row.kld_mean is None


@pytest.mark.parametrize("kind", ["perplexity", "divergence"])
def test_a_measurement_from_the_future_hides_none_that_are_made_later(tmp_path: Path, kind: str) -> None:
    """Order is counted: clocks are set back, and directories are copied between machines."""
    root = write_results(tmp_path / "out", FAKES[:2])
    there = root / ".ggufkit" / "measurements" / "tiny-Q8_0.divergence.json"
    values, made = json.loads(there.read_text()), read_manifest(there)
    assert made is not None
    paths = {k: there.with_name(f"tiny-Q8_0.{k}.json") for k in ("perplexity", "divergence")}
    earlier, later = paths.pop(kind), next(iter(paths.values()))
    write_manifest(there, replace(made, notes=EvalNotes(number=1).to_notes()))

    def measure(path: Path, ppl: float, at: str, number: int) -> Manifest:
        path.write_text(json.dumps([{**v, "value": ppl} for v in values if v["metric"] == "ppl"]))
        write_manifest(path, replace(made, started_at=at, notes=EvalNotes(number=number).to_notes()))
        return replace(made, started_at=at, notes=EvalNotes(number=number).to_notes())

    def ppl() -> float | None:
        return next(row.ppl for row in results.collect(root) if row.type == "Q8_0")

    of_the_future = measure(earlier, 1.0, "2999-01-01T00:00:00+00:00", 0)
    assert next_number(later) == 1 + (kind == "perplexity")
    now = measure(later, 2.0, "2026-01-01T00:00:00+00:00", next_number(later))
    assert ppl() == 2.0
    results.confirm([Result(earlier, of_the_future, True, "a build took it")])
    assert ppl() == 1.0
    measure(later, 3.0, "2026-01-02T00:00:00+00:00", next_number(later))
    assert ppl() == 1.0, "what a build measured is not displaced by a command beside it"
    results.confirm([Result(later, now, True, "the next build took the other")])
    assert (ppl(), read_manifest(later).notes["confirmed"]) == (3.0, 2)  # type: ignore[union-attr]


def test_measurements_of_another_file_are_not_taken(tmp_path: Path) -> None:
    made = write_results(tmp_path / "out", FAKES[:2])
    file = made / ".ggufkit" / "measurements" / "tiny-Q8_0.divergence.json"
    file.write_text(file.read_text().replace(json.loads(file.read_text())[0]["file_sha256"], "0" * 64))
    assert next(r for r in results.collect(made) if r.type == "Q8_0").kld_mean is None


def test_an_empty_directory_has_no_results(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no results"):
        results.collect(tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        tables.load_results(tmp_path)


def test_the_measurement_that_was_asked_for_is_shown(tmp_path: Path) -> None:
    root = write_results(tmp_path / "out", FAKES[:2])
    compared = root / ".ggufkit" / "measurements" / "tiny-Q8_0.divergence.json"
    alone = compared.with_name("tiny-Q8_0.perplexity.json")
    first, made = compared.read_text(), read_manifest(compared)
    assert made is not None
    values = json.loads(first)
    alone.write_text(json.dumps([v for v in values if v["metric"] == "ppl"]))
    write_manifest(alone, replace(made, started_at="2026-02-01T00:00:00+00:00"))

    def kld() -> float | None:
        return next(row.kld_mean for row in results.collect(root) if row.type == "Q8_0")

    assert kld() is None, "the latest way of measuring counts"
    results.confirm([Result(alone, read_manifest(alone) or made, True, "nothing changed")])
    assert kld() is None
    results.confirm([Result(compared, made, True, "nothing changed")])
    assert kld() == FAKES[1].kld
    write_manifest(alone, replace(made, started_at="2027-02-01T00:00:00+00:00"))
    assert kld() == FAKES[1].kld, "what a build measured is not displaced by a command beside it"
    results.confirm([Result(alone, read_manifest(alone) or made, False, "a build without KL divergence")])
    assert kld() is None
    results.confirm([Result(root / "Modelfile.Q8_0", made, True, "nothing changed")])


def test_a_file_that_was_replaced_has_no_measurements(tmp_path: Path) -> None:
    root = write_results(tmp_path / "out", FAKES[:2])
    other = root / "tiny-Q8_0.gguf"
    other.write_bytes(other.read_bytes().replace(b"tiny-Q8_0.gguf", b"else-Q8_0.gguf"))
    row = next(row for row in results.collect(root) if row.type == "Q8_0")
    assert (row.ppl, row.kld_mean, row.tg_tps) == (None, None, None)
