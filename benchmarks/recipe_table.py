"""What `benchmarks.recipes` found, as rows and as text. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from benchmarks.controls import Point, straight_line
from ggufkit.core.records import GgufFile, Measurement

PRESET, RECIPE, REFINED = "preset", "recipe", "recipe, refined"
RANDOM, LAYERS, LINE = "random", "random, layers", "line"
Figures = Mapping[str, Measurement]
"""What was measured of a file, by metric."""


@dataclass(frozen=True)
class Made:
    """A file: what it is, of which preset's bytes, and what its making took.

    Args:
        seconds: of the run that made it; those of measurements that several recipes share are the first one's.
        evaluations: how often a file was evaluated on the calibration text for it, None where none was.
    """

    what: str
    target: str
    file: GgufFile
    seconds: float
    evaluations: int | None = None


@dataclass(frozen=True)
class Row:
    """A row of the table; `ratio` is its KL divergence over the preset's. Of the line nothing else is known."""

    target: str
    what: str
    size_bytes: int
    kld: float
    ratio: float
    kld_stderr: float | None = None
    same_top_p: float | None = None
    evaluations: int | None = None
    seconds: float | None = None


def rows_of(made: Sequence[Made], found: Mapping[Path, Figures]) -> list[Row]:
    """A row for each file, the largest preset and what has its bytes first; below a recipe the line at its bytes."""
    points = {
        one.target: Point(one.file.size_bytes, found[one.file.path]["kld_mean"].value)
        for one in made if one.what == PRESET
    }  # fmt: skip
    rows = list[Row]()
    for target in sorted(points, key=lambda name: -points[name].n_bytes):
        mine = [one for one in made if one.target == target]
        rows += [_row(one, found[one.file.path], points[target].kld) for one in mine]
        others = [point for name, point in points.items() if name != target]
        for size in (one.file.size_bytes for one in mine if one.what == RECIPE):
            line = straight_line(others, size)
            rows += [Row(target, LINE, size, line, line / points[target].kld)] if line is not None else []
    return rows


def _row(one: Made, figures: Figures, preset_kld: float) -> Row:
    kld, same, size = figures["kld_mean"], figures["same_top_p"], one.file.size_bytes
    ratio = kld.value / preset_kld
    return Row(one.target, one.what, size, kld.value, ratio, kld.stderr, same.value, one.evaluations, one.seconds)


def table(rows: Sequence[Row]) -> str:
    """The rows as text; what is not known is left empty."""
    head = ("bytes of", "file", "bytes", "mean KLD", "ratio", "same top", "evaluations", "seconds")
    return "\n".join(_line(cells) for cells in (head, *map(_cells, rows)))


def _cells(row: Row) -> tuple[str, ...]:
    kld = f"{row.kld:.6f}" + (f" ± {row.kld_stderr:.6f}" if row.kld_stderr is not None else "")
    same = f"{row.same_top_p:.2%}" if row.same_top_p is not None else ""
    taken = ("" if value is None else f"{value:g}" for value in (row.evaluations, row.seconds))
    return row.target, row.what, f"{row.size_bytes:,}", kld, f"{row.ratio:.3f}", same, *taken


def _line(cells: Sequence[str]) -> str:
    widths = (-10, -16, 14, 20, 7, 9, 12, 9)
    return " ".join(
        f"{cell:{'<' if w < 0 else '>'}{abs(w)}}" for cell, w in zip(cells, widths, strict=True)
    ).rstrip()


def verdict(rows: Sequence[Row]) -> str:
    """What each recipe is against its preset and its controls, a line each."""
    return "\n".join(_against(row, rows) for row in rows if row.what in (RECIPE, REFINED))


def _against(recipe: Row, rows: Sequence[Row]) -> str:
    beside: dict[str, list[float]] = {RANDOM: [], LAYERS: [], LINE: []}
    for row in rows:
        if row.target == recipe.target and row.what in beside:
            beside[row.what].append(row.kld)
    said = [f"{recipe.ratio:.3f} of the preset"]
    said += [
        f"{recipe.kld / fmean(klds):.3f} of {what} (best of {len(klds)}: {recipe.kld / min(klds):.3f})"
        for what in (RANDOM, LAYERS) if (klds := beside[what])
    ]  # fmt: skip
    said += [f"{recipe.kld / line:.3f} of the line" for line in beside[LINE]] or ["no line"]
    beaten = recipe.ratio < 1 and all(recipe.kld < kld for klds in beside.values() for kld in klds)
    return f"{recipe.target:<10} {recipe.what:<16} {'; '.join(said)}: {'beats all' if beaten else 'DOES NOT BEAT ALL'}"
