"""A curve as a table and as a picture."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from ggufkit.recipes.curve import COLUMNS, Curve, Predicted, Preset, Verified
from ggufkit.report import curve_plot

CURVE = Curve(
    predicted=tuple(Predicted(8_000_000 + i * 500_000, 3 + i / 5, 0.5 * 0.7**i) for i in range(12)),
    verified=(Verified(9_000_000, 3.4, 0.26, 0.002), Verified(12_000_000, 4.6, 0.03, None)),
    presets=(Preset("Q4_K_M", 12_100_000, 4.65, 0.045, 0.001), Preset("=1+1", 9_000_000, 3.4, 0.4)),
    model="tiny $\\frac{1}{2}$",
    expected_on="calibration.txt",
    measured_on="tales.txt",
)


def test_the_table_has_every_point_and_no_formula() -> None:
    rows = list(csv.DictReader(io.StringIO(CURVE.to_csv())))
    assert list(rows[0]) == list(COLUMNS)
    assert [row["kind"] for row in rows] == ["predicted"] * 12 + ["verified"] * 2 + ["preset"] * 2
    assert rows[0] == {"kind": "predicted", "name": "", "size_bytes": "8000000", "bpw": "3", "expected_kld": "0.5",
                       "kld": "", "kld_stderr": ""}  # fmt: skip
    assert (rows[12]["expected_kld"], rows[12]["kld"], rows[13]["kld_stderr"]) == ("", "0.26", "")
    assert [row["name"] for row in rows[14:]] == ["Q4_K_M", "'=1+1"]


@pytest.mark.parametrize("kind", curve_plot.FORMATS)
def test_the_picture_is_whole_and_reproducible(kind: str, tmp_path: Path) -> None:
    file = tmp_path / f"curve.{kind}"
    curve_plot.save(CURVE, file)
    once = file.read_bytes()
    curve_plot.save(CURVE, file)
    assert file.read_bytes() == once
    assert once.startswith(b"\x89PNG" if kind == "png" else b"<?xml")
    assert list(tmp_path.iterdir()) == [file]


def test_the_picture_says_which_text_is_which(tmp_path: Path) -> None:
    file = tmp_path / "curve.svg"
    curve_plot.save(CURVE, file)
    text = file.read_text()
    for said in ("expected on calibration.txt", "recipes, measured on tales.txt", "presets, measured on tales.txt", "Q4_K_M",
                 "tiny $\\frac{1}{2}$", "file size (MiB)"):  # fmt: skip
        assert said in text


def test_what_a_logarithmic_axis_cannot_show_is_left_out(tmp_path: Path) -> None:
    file = tmp_path / "curve.svg"
    points = (Predicted(10**9, 8, -1e-6), Predicted(2 * 10**9, 16, 0.001))
    curve_plot.save(Curve(points, presets=(Preset("F16", 2 * 10**9, 16, 0.0),)), file)
    assert "F16" not in file.read_text()
    assert "file size (GiB)" in file.read_text()
