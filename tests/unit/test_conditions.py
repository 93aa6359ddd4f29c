"""Texts, contexts and KV caches: what is asked for, how it is kept apart, and what is said of it."""

from __future__ import annotations

import csv
import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from ggufkit.core.errors import CorpusError, ResourceError, UsageError
from ggufkit.core.manifest import read_manifest, write_manifest
from ggufkit.core.records import GgufFile, Toolchain
from ggufkit.llama import argv, kv_cache, memory
from ggufkit.llama.argv import Compute, Timing
from ggufkit.llama.gguf import read_header
from ggufkit.measure import length, shares
from ggufkit.measure.bench import BenchOptions, BenchParams
from ggufkit.measure.conditions import settings, with_caches
from ggufkit.measure.evaluation import EvalParams
from ggufkit.measure.measurements import Figure, measured, place, save
from ggufkit.report import MemoryBudget, caches, conditions, results, summary_of, tables
from ggufkit.report import files as reports
from ggufkit.request import BuildRequest, EvaluationOptions
from ggufkit.steps.session import Session
from ggufkit.steps.step import Result, Workspace
from ggufkit.texts.corpus import Corpus, open_text
from tests.fake_results import CONDITIONS, FAKES, write_results

TEXT = Corpus(Path("text.txt"), "ab" * 32, 1000, "text.txt")
GGUF = GgufFile(Path("m-Q4_0.gguf"), 9, "llama", "Q4_0", 1, 1, {}, "cd" * 32)


def measure(root: Path, file: str, setting: str, where: dict[str, Any], **values: float) -> None:
    """As a build keeps what it measured of a file in another setting."""
    gguf = next(row for row in results.collect(root) if row.file == file)
    own = replace(GGUF, path=root / file, kv_type=str(where.get("kv_type") or "f16"))
    kind = "bench" if "tg_tps" in values else "divergence"
    path = place(own, kind, Workspace(root, setting))
    path.parent.mkdir(parents=True, exist_ok=True)
    base = next(row for row in results.collect(root) if row.type == "F16").sha256
    found: dict[str, Figure] = {name: (value, value / 20) for name, value in values.items()}
    at = replace(CONDITIONS, **{"base_sha256": base, "corpus": "=tales.txt", **where})
    save(path, measured(str(gguf.sha256), found, at))
    made = read_manifest(root / ".ggufkit" / "measurements" / f"{Path(file).stem}.bench.json")
    assert made is not None
    write_manifest(path, replace(made, step=kind))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made = write_results(tmp_path / "out", FAKES[:4])
    for n_ctx, kind, loss in (
        (512, "q8_0", 0.0003),
        (4096, "q8_0", 0.0004),
        (512, "q4_0", 0.02),
        (4096, "q4_0", 0.03),
    ):
        setting = "" if n_ctx == 512 else f"abababababab-{n_ctx}"
        where: dict[str, Any] = {"n_ctx": n_ctx, "kv_type": kind}
        measure(made, "tiny-F16.gguf", setting, where, ppl=30.6, kld_mean=loss, same_top_p=1 - loss)
        measure(made, "tiny-Q4_0.gguf", setting, where, ppl=31, kld_mean=0.031426 + loss, same_top_p=0.9)
    measure(
        made, "tiny-Q4_0.gguf", "depth-4096", {"n_ctx": None, "depth": 4096, "kv_type": "q8_0"}, pp_tps=9, tg_tps=5
    )
    return made


def test_contexts_and_caches_are_asked_for_in_lists() -> None:
    several = BuildRequest("m", ctx="512,4096,512", kv_types="Q8_0,q4_0").evaluation
    assert (several.contexts, several.kv_types) == ((512, 4096), ("q8_0", "q4_0"))
    assert several.depths == (512, 4096)
    assert BuildRequest("m", ctx=64).evaluation == EvaluationOptions(ctx=64)
    assert EvaluationOptions(ctx=64).contexts == (64,)
    assert EvaluationOptions().depths == ()
    for wrong in ({"ctx": "512,x"}, {"ctx": "4"}, {"ctx": ()}, {"kv_types": "q3_k"}, {"fits_kv": "q9"}):
        with pytest.raises(UsageError):
            BuildRequest("m", **wrong)


def test_the_first_setting_is_where_it_always_was() -> None:
    further = replace(TEXT, sha256="cd" * 32)
    first, longer, other = settings([TEXT, further], (512, 4096), 24, ("f16", "q8_0"))
    assert (other.text, other.n_ctx, other.n_chunks, other.kv_types) == (further, 512, 24, ())
    assert not other.is_first
    session = Session(Toolchain(Path("bin"), "built", "c", "cpu", "1"), Workspace(Path("out")))
    kept = Path("out/.ggufkit/measurements")
    assert place(GGUF, "divergence", first.session(session).workspace) == kept / "m-Q4_0.divergence.json"
    (cached,) = with_caches([GGUF], first.kv_types)
    assert cached.run != GGUF.run
    assert place(cached, "divergence", first.session(session).workspace) == kept / "kv-q8_0/m-Q4_0.divergence.json"
    elsewhere = longer.session(session).workspace
    assert place(GGUF, "divergence", elsewhere) == kept / "abababababab-4096/m-Q4_0.divergence.json"
    assert elsewhere.log("x") == Path("out/logs/abababababab-4096/x.log")
    assert [f.run_name for f in first.runs(GGUF, [])] == ["m-Q4_0.gguf with a KV cache in q8_0"]
    assert BenchOptions(depth=64).at_depth(session).workspace.setting == "depth-64"


def test_each_context_reads_as_much_of_the_text() -> None:
    counts = {setting.n_ctx: setting.n_chunks for setting in settings([TEXT], (512, 64, 4096, 32768), 100)}
    assert counts == {512: 100, 64: 800, 4096: 13, 32768: 2}
    assert [setting.n_chunks for setting in settings([TEXT], (512, 4096))] == [None, None]


def test_what_nobody_asked_for_is_in_no_recipe() -> None:
    assert EvalParams().to_params() == {"n_ctx": 512, "n_chunks": None, "ngl": None, "backend": "cpu"}
    assert EvalParams(kv_type="q8_0").to_params()["kv_type"] == "q8_0"
    assert not {"depth", "kv_type"} & BenchParams().to_params().keys()
    assert BenchParams(depth=9).to_params()["depth"] == 9


def test_a_quantized_cache_is_read_by_flash_attention() -> None:
    assert Compute(threads=2, kv_type="q8_0").options()[-6:] == ["-ctk", "q8_0", "-ctv", "q8_0", "-fa", "on"]
    assert "-ctk" not in Compute().options()
    tools = Toolchain(Path("bin"), "built", "c", "cpu", "1")
    timed = argv.bench(tools, GGUF.path, Compute(threads=2), Timing(16, 4, 1, 4096))
    assert timed[timed.index("-d") + 1] == "4096"
    assert "-d" not in argv.bench(tools, GGUF.path, Compute(threads=2), Timing())


def test_a_cache_takes_what_its_type_takes(root: Path) -> None:
    header = read_header(root / "tiny-F16.gguf")
    in_f16 = memory.kv_bytes(header, 100)
    assert in_f16 == 2 * 2 * (64 + 64) * 2 * 100
    assert memory.kv_bytes(header, 100, "q8_0") == in_f16 * 34 // 64
    assert memory.kv_bytes(header, 100, "q4_0") == in_f16 * 18 // 64
    kv_cache.require_possible(header, "q4_0", "tiny")
    odd = replace(header, metadata={**header.metadata, "llama.attention.key_length": 80})
    with pytest.raises(UsageError, match="heads of 80 elements, and a KV cache in q4_0 has blocks of 32"):
        kv_cache.require_possible(odd, "q4_0", "tiny")
    kv_cache.require_possible(odd, "bf16", "tiny")


def test_logits_that_memory_does_not_hold_are_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session(Toolchain(Path("bin"), "built", "c", "cpu", "1"), Workspace(root))
    base = replace(GGUF, path=root / "tiny-F16.gguf")
    need = memory.evaluation_ram(read_header(base.path), 0, 32768)
    assert need > 32768 // 2 * 512 * 4 + 32768 * 512 * 2, "logits, and those on their way out"
    monkeypatch.setattr("ggufkit.core.machine.free_memory", lambda: need)
    shares.require_memory(base, 32768, session, at_once=1)
    with pytest.raises(ResourceError, match=r"context of 32,768 tokens .* in each of 2 processes") as refused:
        shares.require_memory(base, 32768, session, at_once=2)
    assert "--scratch-limit" in str(refused.value.hint)


def test_a_text_of_less_than_two_contexts_is_refused_at_once(tmp_path: Path) -> None:
    file = tmp_path / "text.txt"
    file.write_text("word " * 100)
    session = Session(Toolchain(tmp_path, "built", "c", "cpu", "1"), Workspace(tmp_path))
    text = open_text(file)
    length.require_two_contexts(file, text, [8], session)
    with pytest.raises(CorpusError, match="at most 501 tokens, and --ctx 4096 needs 8,192"):
        length.require_two_contexts(file, text, [512, 4096], session)
    assert length.is_ample(text, [8])
    assert not length.is_ample(text, [64])


def test_the_table_stays_that_of_the_first_setting_and_the_rest_is_beside_it(root: Path) -> None:
    measure(
        root, "tiny-Q4_0.gguf", "abababababab-512", {"n_ctx": 512, "kv_type": None}, kld_mean=0.9
    )  # what an earlier build left
    rows = results.collect(root)
    assert {row.file: row.kld_mean for row in rows}["tiny-Q4_0.gguf"] == 0.031426
    assert {row.kv_type for row in rows} == {"f16"}
    reports.write(rows, root)
    assert reports.is_current(rows, root)
    lines = list(csv.DictReader((root / "measurements.csv").read_text().splitlines()))
    assert set(conditions.COLUMNS) == lines[0].keys()
    told = {(x["file"], x["n_ctx"], x["kv_type"], x["depth"], x["metric"]): x for x in lines}
    assert len(told) == len(lines), "a row for each file, condition and metric"
    assert told["tiny-F16.gguf", "4096", "q4_0", "", "kld_mean"]["value"] == "0.03"
    plain = [x for x in lines if (x["file"], x["n_ctx"], x["kv_type"]) == ("tiny-Q4_0.gguf", "512", "")]
    assert [x["value"] for x in plain if x["metric"] == "kld_mean"] == ["0.031426"]
    assert told["tiny-Q4_0.gguf", "", "q8_0", "4096", "tg_tps"]["unit"] == "tokens/s"
    assert told["tiny-Q4_0.gguf", "4096", "q8_0", "", "ppl"]["corpus"] == "'=tales.txt", "no formula"
    assert not tables.load_results(root)["kv_type"].isna().any()
    measure(root, "tiny-Q8_0.gguf", "", {"kv_type": "q8_0"}, ppl=30.6, kld_mean=0.001)
    assert not reports.is_current(rows, root), "another condition is another report"


def test_an_older_table_has_no_type_of_cache(root: Path) -> None:
    tables.save(results.collect(root), root)
    pd.read_csv(root / "results.csv").drop(columns=["kv_type"]).to_csv(root / "results.csv", index=False)
    assert tables.load_results(root)["kv_type"].isna().all()


def test_the_report_says_which_cache_is_harmless(root: Path) -> None:
    summary = summary_of(results.collect(root), root)
    harmless, other = summary.further.sentences
    assert harmless == (
        "A KV cache in q8_0 is harmless for this model: KLD 0.0004 ± 2e-05 of the base at 512 and 4,096 tokens, most "
        "at 4,096. It takes 53% of an F16 cache's memory."
    )
    assert "q4_0 is not harmless for this model (good for most uses)" in other
    line = next(
        x for x in summary.further.lines if (x.file, x.n_ctx, x.kv_type) == ("tiny-Q4_0.gguf", 512, "q4_0")
    )
    assert line.added is not None
    assert line.added[0] == pytest.approx(0.02)
    (timed,) = [x for x in summary.further.lines if x.tg is not None]
    assert (timed.file, timed.n_ctx, timed.kv_type) == ("tiny-Q4_0.gguf", 4096, "q8_0")
    assert "--ctx 512,4096 --kv-types q8_0,q4_0" in summary.command
    page = reports.render(results.collect(root), root, MemoryBudget())["report.html"]
    assert harmless.replace("'", "&#39;") in page


def test_a_precision_has_another_sample_in_each_context(root: Path) -> None:
    """A sample's hash is its own; its name is that of the text."""
    row = next(row for row in results.collect(root) if row.type == "F16")
    own = replace(CONDITIONS, corpus="wiki.test.raw", base_sha256=row.sha256)
    longer = replace(own, n_ctx=2048, corpus_sha256="ef" * 32, kv_type="q8_0")
    values: dict[str, Figure] = {"ppl": (30.6, None), "kld_mean": (0.0006, 1e-5)}
    first, further = (measured(str(row.sha256), values, where) for where in (own, longer))
    table = conditions.Table("wiki.test.raw", own.corpus_sha256, 512)
    assert conditions.further_texts(table, [further]) == {}
    assert conditions.options(table, [further]) == {"--ctx": "512,2048", "--kv-types": "q8_0"}
    (judged,) = caches.further(conditions.of_rows([row], [first], [further], [root] * 2)).judged
    assert judged.contexts == (2048,)
    other = measured(str(row.sha256), values, replace(longer, n_ctx=512))
    assert conditions.further_texts(table, [other]) == {"wiki.test.raw": "ef" * 32}


def test_a_directory_without_other_settings_says_nothing_of_them(tmp_path: Path) -> None:
    root = write_results(tmp_path / "out", FAKES[:2])
    summary = summary_of(results.collect(root), root)
    assert not summary.further.lines
    assert "--kv-types" not in summary.command
    assert "KV caches" not in reports.render(results.collect(root), root, MemoryBudget())["report.md"]


def test_what_fits_is_counted_with_the_cache_that_was_chosen(root: Path) -> None:
    rows = results.collect(root)
    plain, small = (summary_of(rows, root, MemoryBudget(1 << 30, 1 << 20, kind)) for kind in ("f16", "q4_0"))
    saved = plain.advice.ladder[0].memory_bytes - small.advice.ladder[0].memory_bytes
    assert saved == memory.kv_bytes(read_header(root / "tiny-F16.gguf"), 1 << 20) * 46 // 64
    assert "1,048,576 tokens in a q4_0 cache" in small.answer
    reports.write(rows, root, MemoryBudget(1 << 30, 4096, "q4_0"))
    assert json.loads((root / ".ggufkit" / "report.json").read_text())["wish"]["kv_type"] == "q4_0"
    assert not reports.refresh(rows, root), "for the same memory and cache"


def on_texts(root: Path, file: str, **losses: float) -> None:
    """As a build keeps what it measured of a file on further texts."""
    for name, loss in losses.items():
        digest = hashlib.sha256(name.encode()).hexdigest()
        where = {"n_ctx": 512, "corpus": name, "corpus_sha256": digest}
        measure(root, file, f"{digest[:12]}-512", where, ppl=31, kld_mean=loss)


def test_each_text_is_a_column_and_no_context(tmp_path: Path) -> None:
    """The plain Q4_0 loses 0.031 on the table's text; what one with a matrix loses elsewhere is held against it."""
    root = write_results(tmp_path / "out", FAKES[:6])
    on_texts(root, "tiny-Q4_0.gguf", code=0.03, chat=0.04)
    on_texts(root, "tiny-imatrix-Q4_0.gguf", code=0.09, chat=0.03)
    summary = summary_of(results.collect(root), root)
    assert summary.texts.names[1:] == ("chat", "code")
    by_file = {one.file: one for one in summary.texts.files}
    plain, matrix = by_file["tiny-Q4_0.gguf"], by_file["tiny-imatrix-Q4_0.gguf"]
    assert (plain.plain, matrix.plain) == (True, False)
    assert (matrix.worst.text, matrix.worst.value, matrix.worst.error) == ("code", 0.09, 0.0045)
    assert matrix.mean == pytest.approx((matrix.losses[0].value + 0.09 + 0.03) / 3)
    (sentence,) = summary.texts.sentences
    assert "tiny-imatrix-Q4_0.gguf is good on chat and bad on code" in sentence
    assert not summary.further.lines
    written = reports.render(results.collect(root), root, MemoryBudget())
    assert "## Several texts" in written["report.md"]
    assert "tiny-imatrix-Q4_0.gguf is good on chat and bad on code" in written["report.html"]
    assert "--corpus chat --corpus code" in written["report.md"]
    rows = list(csv.DictReader(written["measurements.csv"].splitlines()))
    assert {row["value"] for row in rows if row["corpus"] == "code" and row["metric"] == "kld_mean"} == {
        "0.03",
        "0.09",
    }


def test_one_text_has_no_section(root: Path) -> None:
    summary = summary_of(results.collect(root), root)
    assert summary.further.lines
    assert not summary.texts.files


def test_an_edited_text_is_told_of_in_place_of_what_it_was(tmp_path: Path) -> None:
    made = write_results(tmp_path / "out", FAKES[:4])
    for digest, loss in (("12" * 32, 0.03), ("cd" * 32, 0.04)):
        where: dict[str, Any] = {"corpus": "prose.txt", "corpus_sha256": digest, "n_ctx": 512}
        measure(made, "tiny-Q4_0.gguf", f"{digest[:12]}-512", where, ppl=31, kld_mean=loss)
    workspace = Workspace(made)

    def losses() -> list[float]:
        found = conditions.collect(results.collect(made), made)
        return [v[0] for m in found if m.conditions.corpus == "prose.txt" and (v := m.value("kld_mean"))]

    assert losses() == [0.03, 0.04]
    latest = workspace.measurements / f"{'cd' * 6}-512" / "tiny-Q4_0.divergence.json"
    manifest = read_manifest(latest)
    assert manifest is not None
    conditions.note_texts([Result(latest, manifest, fresh=True, reason="")], workspace)
    assert losses() == [0.04]
    (workspace.private / "texts.json").write_text("[")
    assert losses() == [0.03, 0.04]
