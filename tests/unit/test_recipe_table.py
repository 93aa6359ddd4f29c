"""How `benchmarks/recipes.py` shows what it measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.recipe_table import LINE, PRESET, RANDOM, RECIPE, Made, Row, rows_of, table, verdict
from ggufkit.core.records import Conditions, GgufFile, Measurement

_FILES = {  # mean KL divergence and bytes
    (PRESET, "Q5_K_M"): (0.001, 200),
    (PRESET, "Q4_K_M"): (0.02, 150),
    (RECIPE, "Q4_K_M"): (0.009, 150),
    (RANDOM, "Q4_K_M"): (0.03, 149),
    (PRESET, "Q2_K"): (0.1, 100),
}


def _measured(metric: str, value: float) -> Measurement:
    return Measurement("", metric, value, 0.001, "", Conditions("cpu", "", 0, 1, "", ""))


@pytest.fixture
def rows() -> list[Row]:
    made, found = [], {}
    for number, ((what, target), (kld, size)) in enumerate(_FILES.items()):
        file = GgufFile(Path(f"{number}.gguf"), size, "llama", target, 1, size, {})
        made.append(Made(what, target, file, 1.5, 7 if what == RECIPE else None))
        found[file.path] = {"kld_mean": _measured("kld_mean", kld), "same_top_p": _measured("same_top_p", 0.9)}
    return rows_of(made, found)


def test_rows_are_by_size_and_the_line_leaves_the_preset_out(rows: list[Row]) -> None:
    assert [(row.target, row.what) for row in rows] == [
        ("Q5_K_M", PRESET),
        ("Q4_K_M", PRESET),
        ("Q4_K_M", RECIPE),
        ("Q4_K_M", RANDOM),
        ("Q4_K_M", LINE),
        ("Q2_K", PRESET),
    ]
    line = rows[4]
    assert line.kld == pytest.approx(0.01)
    assert line.ratio == pytest.approx(0.5)
    assert line.seconds is None


def test_the_verdict_names_all_controls(rows: list[Row]) -> None:
    said = verdict(rows)
    assert "0.450 of the preset; 0.300 of random (best of 1: 0.300); 0.900 of the line" in said
    assert said.endswith("beats all")
    worse = [row if row.what != LINE else Row(row.target, LINE, row.size_bytes, 0.008, 0.4) for row in rows]
    assert verdict(worse).endswith("DOES NOT BEAT ALL")


def test_a_table_leaves_empty_what_was_not_measured(rows: list[Row]) -> None:
    lines = table(rows).splitlines()
    assert lines[3].split() == [
        "Q4_K_M",
        "recipe",
        "150",
        "0.009000",
        "±",
        "0.001000",
        "0.450",
        "90.00%",
        "7",
        "1.5",
    ]
    assert lines[5].split() == ["Q4_K_M", "line", "150", "0.010000", "0.500"]
