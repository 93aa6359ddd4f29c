"""The report begins with the figures to choose by; what else was measured unfolds, and nothing is said twice."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from ggufkit.cli import tables
from ggufkit.cli.terminal import Screen
from ggufkit.core.records import ResultRow
from ggufkit.report import files as reports
from ggufkit.report import results, tasks
from ggufkit.report.choose import MemoryBudget
from ggufkit.report.decisive import Figures
from ggufkit.report.files import summary_of
from ggufkit.report.summary import Summary
from ggufkit.report.unevenness import FileLosses, TextLoss, Texts
from tests.fake_results import FAKES, write_results
from tests.unit.test_conditions import measure, on_texts
from tests.unit.test_report_tasks import BASE, FILE, note


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three texts, two tasks and a KV cache that does harm; one file was measured on the first text alone."""
    made = write_results(tmp_path_factory.mktemp("decisive") / "out", FAKES[:6])
    on_texts(made, "tiny-Q4_0.gguf", code=0.03, chat=0.04)
    on_texts(made, "tiny-imatrix-Q4_0.gguf", code=0.09, chat=0.03)
    for task in ("hellaswag", "mine"):
        note(made, "tiny-F16.gguf", task, BASE)
        note(made, "tiny-Q4_0.gguf", task, {**FILE, "acc": (0.64 if task == "mine" else 0.6, 0.03)})
    note(made, "tiny-Q4_0.gguf", "alone", BASE)
    for kind, loss in (("q8_0", 0.0003), ("q4_0", 0.02)):
        measure(made, "tiny-F16.gguf", "", {"kv_type": kind}, ppl=30.6, kld_mean=loss, same_top_p=1 - loss)
        deep = "abababababab-4096"
        measure(made, "tiny-F16.gguf", deep, {"n_ctx": 4096, "kv_type": kind}, ppl=30.6, kld_mean=1.5 * loss)
    return made


@pytest.fixture(scope="module")
def summary(root: Path) -> Summary:
    return summary_of(results.collect(root), root)


@pytest.fixture(scope="module")
def written(root: Path) -> dict[str, str]:
    return reports.render(results.collect(root), root, MemoryBudget())


def figures(summary: Summary) -> dict[str, Figures]:
    assert summary.decisive is not None
    return {one.entry.row.file: one for one in summary.decisive.files}


def test_a_file_loses_its_mean_over_texts_with_the_worst_beside(summary: Summary) -> None:
    found = figures(summary)
    matrix, single = found["tiny-imatrix-Q4_0.gguf"], found["tiny-Q5_0.gguf"]
    assert matrix.loss is not None
    assert matrix.loss[0] == pytest.approx((0.027633 + 0.09 + 0.03) / 3)
    assert matrix.loss[1] == pytest.approx((0.0003**2 + 0.0045**2 + 0.0015**2) ** 0.5 / 3)
    assert matrix.worst is not None
    assert (matrix.worst.text, matrix.worst.value) == ("code", 0.09)
    assert (single.loss, single.worst) == ((0.006134, 0.00008), None)
    assert single.alone == summary.texts.names[0], "no mean over texts is told of one text"
    assert found["tiny-F16.gguf"].loss is None


def test_right_answers_are_a_mean_over_the_tasks_of_all(summary: Summary) -> None:
    found = figures(summary)
    q4 = found["tiny-Q4_0.gguf"]
    assert q4.right is not None
    assert q4.right[0] == pytest.approx(0.62)
    assert q4.right[1] == pytest.approx((2 * 0.03**2) ** 0.5 / 2)
    assert q4.flips == pytest.approx(0.1)
    assert found["tiny-F16.gguf"].flips is None
    assert found["tiny-Q8_0.gguf"].right is None, "it was asked nothing"


def test_memory_counts_the_cache_that_was_chosen(root: Path) -> None:
    rows = results.collect(root)
    plain, small = (
        figures(summary_of(rows, root, MemoryBudget(None, 1 << 20, kind)))["tiny-Q4_0.gguf"].memory_bytes
        for kind in ("f16", "q4_0")
    )
    assert plain is not None
    assert small is not None
    assert small < plain


def test_warnings_stand_by_the_answer_and_nothing_is_said_twice(summary: Summary, written: dict[str, str]) -> None:
    uneven, harmful = summary.warnings
    assert "good on chat and bad on code" in uneven
    assert "q4_0 is not harmless" in harmful
    page, text = written["report.html"], written["report.md"]
    assert page.index("good on chat and bad on code") < page.index('<table class="ladder">')
    assert text.index("good on chat and bad on code") < text.index("| File")
    for said in (page, text.replace("\\_", "_")):
        assert said.count("good on chat and bad on code") == 1
        assert said.count("q4_0 is not harmless") == 1
        assert said.count("q8_0 is harmless") == 1


def test_the_rest_unfolds_in_the_same_order(written: dict[str, str]) -> None:
    page, text = written["report.html"], written["report.md"]
    assert re.findall(r'<details class="more"><summary><h2 id="(\w+)">', page) == [
        "rest",
        "texts",
        "tasks",
        "caches",
    ]
    heads = [text.index(f"## {head}") for head in ("Several texts", "Tasks", "Contexts and KV caches")]
    assert heads == sorted(heads)
    assert "beforeprint" in page
    first, rest = page.split('<table id="table">')[1].split('id="rest"')
    for head in ("Size", "KLD", "Right", "tg128", "Memory"):
        assert f'<button type="button">{head}</button>' in first
    assert "Perplexity" not in first
    assert "worst 0.090000, code" in first
    assert 'scope="col">Perplexity<' in rest.split('id="texts"')[0]
    assert 'scope="col">KLD<' not in rest.split('id="texts"')[0]
    assert "Worst: tiny-imatrix-Q4_0.gguf on code, KLD 0.090000." in text, "no backslash: it is in HTML"
    assert "−6.0% ±1.6%, p 1.8e-04" in page
    assert "512 and 4,096 tokens; f16, q8_0, q4_0. Worst: q4_0, KLD 0.03 of the base at 4,096 tokens." in page


def test_a_directory_without_more_has_the_table_of_results(tmp_path: Path) -> None:
    root = write_results(tmp_path / "out", FAKES[:3])
    rows = results.collect(root)
    assert summary_of(rows, root).decisive is None
    written = reports.render(rows, root, MemoryBudget())
    for absent in ('class="more"', 'class="mind"', "beforeprint"):
        assert absent not in written["report.html"]
    assert '<button type="button">Perplexity</button>' in written["report.html"]


def test_a_terminal_of_eighty_columns_has_all_of_it(summary: Summary) -> None:
    console = Console(width=80, file=io.StringIO(), record=True)
    assert summary.decisive is not None
    files = [
        replace(one, worst=one.worst and replace(one.worst, text="long" * 30)) for one in summary.decisive.files
    ]
    for shown in (replace(summary.decisive, files=tuple(files)), summary.decisive):
        console.print(tables.decisive_table(shown))
        lines = console.export_text().splitlines()
        assert max(map(len, lines)) <= 80
    assert lines[0].split() == ["file", "size", "mean", "KLD", "worst", "right", "tg128", "memory"]
    assert "0.09000" in "".join(lines)
    assert "10.0% flips" in "".join(lines)


def test_checkpoints_beside_files_leave_names_in_one_line_of_eighty_columns() -> None:
    measured = ResultRow(
        "m", "plain", "Q4_K_M", "model-135M-Q4_K_M.gguf", 13635488, 22288896, 4.86, ppl=130.9889, ppl_stderr=13.0243,
        ln_ppl_ratio=-1e-9, ln_ppl_ratio_stderr=0.00753, kld_mean=0.02181, kld_stderr=0.00066, same_top_p=1.0,
    )  # fmt: skip
    checkpoint = replace(measured, file="model-135M-nf4", format="hf:nf4", eval_tps=1367.4)
    console = Screen(width=80, file=io.StringIO(), record=True)
    console.print(tables.quality_table([measured, checkpoint]))
    shown = console.export_text()
    assert max(map(len, shown.splitlines())) <= 80
    assert "…" not in shown
    for found in (
        "model-135M-Q4_K_M ",
        "model-135M-nf4 ",
        "±13.0243",
        "1367.4 t/s",
        "4.86 BPW",
        "trans-\n",
        " 0.00000",
    ):
        assert found in shown
    assert "-0.00000" not in shown


def test_of_many_uneven_files_the_one_to_take_and_the_worst_are_told() -> None:
    plain = FileLosses("plain", (TextLoss("a", 0.01), TextLoss("b", 0.01)), plain=True)
    odd = [FileLosses(f"f{n}", (TextLoss("a", 0.01), TextLoss("b", 0.01 * n))) for n in range(2, 8)]
    texts = Texts(("a", "b"), (plain, *odd))
    told = texts.first("f2")
    assert [line.split()[0] for line in told] == ["f2", "f7", "f6", "3"]
    assert [line.split()[0] for line in texts.rest("f2")] == ["f5", "f4", "f3"]


def test_tasks_in_a_line_name_the_worst_or_say_that_there_is_none(summary: Summary) -> None:
    assert tasks.finding(summary.tasks).endswith("Worst: tiny-Q4_0.gguf in HellaSwag, −6.0% ±1.6%, p 1.8e-04.")
    none_lost = [
        replace(table, rows=tuple((file, replace(score, lost=0)) for file, score in table.rows if score.flips))
        for table in summary.tasks
    ]
    assert tasks.finding(none_lost).endswith("No file answers worse than the base.")
    unasked = [replace(table, rows=table.rows[:1]) for table in summary.tasks]
    assert tasks.finding(unasked) == "HellaSwag, alone, mine."
