"""What each method loses at each size, of one model: KL divergence against bits per weight, one line a method."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ggufkit.core import escape
from ggufkit.core.records import ResultRow
from ggufkit.llama import quants
from ggufkit.report import palette, svg
from ggufkit.report.labels import Label, place
from ggufkit.report.scatter import variant_title
from ggufkit.report.svg import NARROW_IN, WIDE_IN, Canvas
from ggufkit.report.swept import Swept, is_recipe

_FEWEST = 2
_HEIGHT_IN = 3.5
_MOST_LABELS = 12
_ROOM = 1.25


@dataclass(frozen=True)
class Limits:
    """What all drawings of a page show, so that they can stand side by side: bits per weight, and nats."""

    bits: tuple[float, float]
    nats: tuple[float, float]


def limits(cells: Sequence[Swept]) -> Limits | None:
    """The limits that suit all; None where nothing can be drawn."""
    rows = [row for cell in cells for row in _shown(cell)]
    if not rows:
        return None
    bits, nats = [row.bpw for row in rows], [row.kld_mean or 0.0 for row in rows]
    margin = max(0.05 * (max(bits) - min(bits)), 0.1)
    return Limits((min(bits) - margin, max(bits) + margin), (min(nats) / _ROOM, max(nats) * _ROOM))


@svg.styled
def draw(cell: Swept, within: Limits, *, is_wide: bool = False) -> str | None:
    """A model's drawing, for half a page or a whole one; None with too little to draw."""
    rows = _shown(cell)
    if len(rows) < _FEWEST:
        return None
    canvas, numbers = (
        svg.canvas(WIDE_IN if is_wide else NARROW_IN, _HEIGHT_IN),
        palette.numbers(row.variant for row in rows),
    )
    for variant, by_recipe, line in _lines(rows, numbers):
        _draw_line(canvas, numbers[variant], line, f"{variant_title(variant)}{', by recipe' if by_recipe else ''}")
    axes: Any = canvas.axes
    axes.set_yscale("log")
    axes.set_xlim(*within.bits)
    axes.set_ylim(*within.nats)
    svg.plain_ticks(axes.yaxis)
    axes.set_xlabel("bits per weight")
    axes.set_ylabel("mean KL divergence (nats)")
    canvas.style("both")
    canvas.legend(6 if is_wide else 2)
    _label(canvas, rows)
    key = f"{cell.title.encode().hex()} {'wide' if is_wide else ''}"
    return canvas.svg(f"Loss by bits per weight of {escape.terminal(cell.title)}", key)


def _shown(cell: Swept) -> list[ResultRow]:
    """Quantized files whose divergence is known, and more than nothing."""
    return [row for row in cell.rows if row.is_gguf and row.kld_mean and not quants.is_float(row.type)]


def _lines(rows: Sequence[ResultRow], numbers: dict[str, int]) -> Iterator[tuple[str, bool, list[ResultRow]]]:
    """Each variant's presets, and its recipes, the smallest first."""
    for variant in (name for name in numbers if any(row.variant == name for row in rows)):
        for by_recipe in (False, True):
            found = [row for row in rows if row.variant == variant and is_recipe(row) is by_recipe]
            if found:
                yield variant, by_recipe, sorted(found, key=lambda row: (row.bpw, -(row.kld_mean or 0.0)))


def _draw_line(canvas: Canvas, number: int, line: Sequence[ResultRow], title: str) -> None:
    colour, by_recipe = canvas.series(number), is_recipe(line[0])
    xs, ys = [row.bpw for row in line], [row.kld_mean or 0.0 for row in line]
    canvas.axes.errorbar(xs, ys, yerr=[row.kld_stderr or 0.0 for row in line], fmt="none",
                         ecolor=canvas.theme.muted, elinewidth=0.8, zorder=2)  # fmt: skip
    canvas.axes.plot(xs, ys, color=colour, linewidth=1.3, linestyle=(0, (2, 3)) if by_recipe else "-", zorder=1)
    marker, size = ("*", 9.0) if by_recipe else (palette.marker(number), 5.5)
    for i, (row, x, y) in enumerate(zip(line, xs, ys, strict=True)):
        (point,) = canvas.axes.plot(
            [x], [y], marker, color=colour, markersize=size, markeredgewidth=0.6,
            markeredgecolor=canvas.theme.card, label=title if i == 0 else None, zorder=3,
        )  # fmt: skip
        error = f" ± {row.kld_stderr:.2g}" if row.kld_stderr else ""
        point.set_gid(
            svg.tip(f"{escape.terminal(f'{row.variant} {row.type}')}: KLD {y:.5g}{error} at {x:.2f} BPW")
        )


def _label(canvas: Canvas, rows: Sequence[ResultRow]) -> None:
    """Name the best file of each type, where there are few."""
    best: dict[str, ResultRow] = {}
    for row in sorted(rows, key=lambda row: row.kld_mean or 0.0):
        best.setdefault(row.type, row)
    if len(best) <= _MOST_LABELS:
        points = [(row.bpw, row.kld_mean or 0.0) for row in rows]
        labels = [Label(escape.terminal(row.type), row.bpw, row.kld_mean or 0.0) for row in best.values()]
        place(canvas.axes, labels, points, fontsize=7.5, color=canvas.theme.ink)
