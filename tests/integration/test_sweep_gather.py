"""What a sweep found in one place: a table that pandas reads, and a page; an earlier sweep beside it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from ggufkit import report
from ggufkit.core.errors import InputError
from ggufkit.report import results, swept
from ggufkit.report.tables import COLUMNS, load_results
from ggufkit.request import BuildRequest
from ggufkit.sweep.gather import gather
from ggufkit.sweep.records import Cell, Outcome
from tests.fake_results import FAKES, write_results

CELLS = [Cell(model, "quick", BuildRequest(model)) for model in ("acme-1b", "acme-2b", "gone")]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    for cell in CELLS[:2]:
        root = write_results(tmp_path / cell.name, FAKES, name=cell.model)
        report.write(results.collect(root), root)
    return tmp_path


def test_all_rows_in_one_table_and_one_page(out: Path) -> None:
    failed = Outcome("quick/gone|fetch||", "failed", message="It is not there.")
    written = gather(CELLS, out, [failed])
    assert written.files == (out / "sweep.csv", out / "sweep.html")
    table = pd.read_csv(out / "sweep.csv")
    assert list(table.columns) == ["model", "profile", *COLUMNS]
    assert table.groupby(["profile", "model"]).size().to_dict() == {
        ("quick", "acme-1b"): 8,
        ("quick", "acme-2b"): 8,
    }
    for cell in CELLS[:2]:
        own = table[table.model == cell.model].drop(columns=["model", "profile"]).reset_index(drop=True)
        pd.testing.assert_frame_equal(
            own.dropna(axis="columns", how="all"),
            load_results(out / cell.name).dropna(axis="columns", how="all"),
            check_dtype=False,
        )
    page = (out / "sweep.html").read_text(encoding="utf-8")
    assert "GPTQ" in page
    assert "1 job failed: some files are missing here." in page
    assert "1 model has no results yet." in page


def test_against_an_earlier_sweep(out: Path) -> None:
    gather(CELLS, out)
    earlier = swept.read(out / "sweep.csv")
    old, frames = out / "old.csv", []
    for found in earlier:
        table = load_results(out / found.profile / found.model)
        table.loc[table["type"] == "Q4_0", "kld_mean"] *= 0.5
        frames.append((found.model, found.profile, table))
    old.write_text(swept.to_csv(frames))
    gather(CELLS, out, against=old)
    page = (out / "sweep.html").read_text(encoding="utf-8")
    assert "Against the earlier sweep 8 of 14 files lose more, 0 less, 6 the same within the error." in page
    assert [c.rows for c in swept.read(out / "sweep.csv")] == [c.rows for c in earlier]


def test_without_results_nothing_is_written(tmp_path: Path) -> None:
    assert gather(CELLS, tmp_path).files == ()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InputError, match=r"old\.csv is not there"):
        gather(CELLS, tmp_path, against=tmp_path / "old.csv")


def test_a_table_that_cannot_be_read_is_left_out_with_a_warning(out: Path) -> None:
    (out / CELLS[0].name / "results.csv").write_text("a,b\n")
    written = gather([*CELLS, replace(CELLS[0], model="..")], out)
    assert [c.model for c in swept.read(out / "sweep.csv")] == ["acme-2b"]
    assert [w for w in written.warnings if "acme-1b" in w]
