"""What tasks look like in tables and reports, from measurements on disk."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

from ggufkit import report
from ggufkit.core.progress import SilentReporter
from ggufkit.core.records import Measurement, ResultRow
from ggufkit.measure.measurements import save
from ggufkit.measure.tasks import scores
from ggufkit.report import tasks
from ggufkit.report.results import collect
from ggufkit.report.tables import from_csv, to_csv, to_json
from ggufkit.steps.step import Workspace
from tests.fake_results import CONDITIONS, Fake, write_results

FAKES = (Fake("plain", "F16", None), Fake("plain", "Q8_0", 0.0004), Fake("plain", "Q4_0", 0.03))
BASE = {"acc": (0.7, 0.02), "questions": (400.0, None), "chance": (0.25, None)}
FILE = {
    **BASE, "flips": (0.1, 0.015), "lost": (32.0, None), "gained": (8.0, None), "flips_p": (0.00018, None),
}  # fmt: skip


def note(
    root: Path, file: str, task: str, figures: dict[str, tuple[float, float | None]], sample: str = "aa"
) -> None:
    """Leave what was measured of a file by a task."""
    path = root / file
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    where = replace(CONDITIONS, corpus_sha256=sample * 32)
    found = [Measurement(digest, f"{task}_{name}", v, e, "", where) for name, (v, e) in figures.items()]
    save(Workspace(root).measurements / f"{path.stem}.{scores.KIND}{task}.json", found)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three files, of which the last was asked something else, too."""
    root = write_results(tmp_path / "out", FAKES)
    note(root, "tiny-F16.gguf", "hellaswag", BASE)
    note(root, "tiny-Q8_0.gguf", "hellaswag", FILE)
    note(root, "tiny-Q4_0.gguf", "mine", BASE)
    return root


def rows_of(root: Path) -> list[ResultRow]:
    reporter = SilentReporter()
    rows = collect(root, reporter)
    assert reporter.warnings == []
    return rows


def test_columns_of_tasks_come_last_and_what_was_not_asked_is_missing(root: Path) -> None:
    rows = rows_of(root)
    names = [f"{task}_{kind}" for task in ("hellaswag", "mine") for kind in ("acc", "acc_stderr", "flips")]
    table = from_csv(to_csv(rows))
    assert list(table.columns)[-6:] == names
    assert table["hellaswag_flips"].isna().tolist() == [True, False, True]
    assert [row["mine_acc"] for row in json.loads(to_json(rows))] == [None, None, 0.7]


def test_a_file_without_tasks_has_no_column_for_them(tmp_path: Path) -> None:
    assert "acc" not in to_csv(rows_of(write_results(tmp_path / "out", FAKES)))


def test_reports_have_a_table_for_each_task(root: Path) -> None:
    rows = rows_of(root)
    report.write(rows, root)
    said = (root / "report.md").read_text()
    assert "**HellaSwag: 400 questions, chance 25.0%**" in said
    assert "10.0% (−32 +8)" in said
    assert "1.8e-04" in said
    assert said.index("HellaSwag: 400") < said.index("mine: 400")
    page = (root / "report.html").read_text()
    assert "<caption>HellaSwag: 400 questions, chance 25.0%</caption>" in page
    assert "<td>70.0%<small>± 2.0%</small></td><td>−6.0% ±1.6%</td><td>10.0% (−32 +8)</td><td>1.8e-04</td>" in page
    assert "hellaswag_flips" in (root / "measurements.csv").read_text()


def test_answers_to_other_questions_stand_in_a_table_of_their_own(root: Path) -> None:
    note(root, "tiny-Q4_0.gguf", "hellaswag", FILE, sample="bb")
    one, other, _ = tasks.tables_of(rows_of(root))
    assert [file for file, _ in one.rows] == ["tiny-F16.gguf", "tiny-Q8_0.gguf"]
    assert [file for file, _ in other.rows] == ["tiny-Q4_0.gguf"]
    assert other.title == "HellaSwag: 400 questions, a sample of its own, chance 25.0%"


def test_what_was_measured_of_an_earlier_file_does_not_count(root: Path) -> None:
    path = root / "tiny-Q8_0.gguf"
    measured = scores.scores_in(Workspace(root).measurements, path.stem, "0" * 64)
    assert measured == ()
