"""The plots of `report.html` as SVG, and that of a model card as a picture."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from ggufkit.llama import quants
from ggufkit.report import palette, recommend, scatter, svg
from ggufkit.report.anchors import Published
from ggufkit.report.data import Entry
from ggufkit.report.palette import LIGHT
from ggufkit.report.scatter import Scatter
from ggufkit.report.svg import NARROW_IN, WIDE_IN, Canvas
from ggufkit.report.timeline import Span, lanes

_PICTURE_IN = 8.0
_MOST_ROWS = 16
"""Files of which a drawing with a row for each shows all; of more it shows those of the Pareto front."""
_LONGEST_LABEL = 24
_MARKS = ((0.5, "o", "median"), (0.9, "|", "90 %"), (0.99, "D", "99 %"), (0.999, "s", "99.9 %"), (1.0, "x", "max"))


@svg.styled
def quality_by_size(
    entries: Sequence[Entry], known: Published | None = None, taken: str = "", *, is_wide: bool = False
) -> str | None:
    """Loss against file size with error bars, the Pareto front, and what others published. None with too little
    to draw.

    Args:
        taken: name of the file that the report recommends.
        is_wide: for the whole width of a page.
    """
    found = _by_size(entries, known, taken)
    if found is None:
        return None
    canvas = svg.canvas(WIDE_IN, 4.4) if is_wide else svg.canvas(height=4.2)
    found.draw(canvas, 6 if is_wide else 2)
    return canvas.svg("Quality against size", "wide" if is_wide else "")


@svg.styled
def picture(entries: Sequence[Entry], known: Published | None = None, taken: str = "") -> bytes | None:
    """The same as PNG, for hubs, which show no SVG. None with too little to draw."""
    found = _by_size(entries, known, taken)
    if found is None:
        return None
    canvas = svg.canvas(_PICTURE_IN, 4.6, LIGHT)
    found.draw(canvas, 5)
    return canvas.png()


@svg.styled
def quality_by_speed(
    entries: Sequence[Entry], taken: str = "", height: float = 3.6, *, is_wide: bool = False
) -> str | None:
    """Loss against generation speed. None where speed or quality was not measured."""
    loss = scatter.loss_of(entries)
    shown = scatter.shown(entries, loss, scatter.SPEED)
    if len(shown) < 2:
        return None
    canvas = svg.canvas(WIDE_IN if is_wide else NARROW_IN, height)
    Scatter(shown, loss, scatter.SPEED, taken).draw(canvas, 6 if is_wide else 2)
    return canvas.svg("Quality against speed", "wide" if is_wide else "")


def spread(entries: Sequence[Entry]) -> list[Entry]:
    """The files that `percentiles` shows: all, or of many those of the Pareto front."""
    known = _with_percentiles(entries)
    return known if len(known) <= _MOST_ROWS else recommend.pareto(known)[::-1]


def _with_percentiles(entries: Sequence[Entry]) -> list[Entry]:
    known = [e for e in entries if e.percentiles.get(0.5, 0) > 0]
    return [e for e in known if not quants.is_float(e.row.type)] or known


@svg.styled
def percentiles(entries: Sequence[Entry], *, is_wide: bool = False) -> str | None:
    """How KL divergence is spread over the tokens: from the median to the worst, on a log axis."""
    shown = spread(entries)
    if not shown:
        return None
    canvas = svg.canvas(WIDE_IN if is_wide else NARROW_IN, percentiles_height(shown))
    numbers = palette.numbers(e.row.variant for e in entries)
    for y, entry in enumerate(shown):
        _draw_percentiles(canvas, y, entry, canvas.series(numbers[entry.row.variant]))
    axes = canvas.axes
    axes.set_xscale("log")
    svg.plain_ticks(axes.xaxis)
    axes.set_yticks(range(len(shown)), [_short(e.label) for e in shown])
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.set_xlabel("KL divergence of a token (nats)")
    canvas.style("x")
    canvas.legend(5)
    return canvas.svg("KL divergence percentiles", "wide" if is_wide else "")


def percentiles_height(entries: Sequence[Entry]) -> float:
    """How high that drawing is, in inches: what stands beside it may be as high."""
    return 1.0 + 0.26 * max(len(spread(entries)), 9)


def _short(label: str) -> str:
    """So much of a label that room is left for the drawing."""
    return label if len(label) <= _LONGEST_LABEL else f"{label[: _LONGEST_LABEL - 1]}…"


def _draw_percentiles(canvas: Canvas, y: int, entry: Entry, colour: str) -> None:
    values = [entry.percentiles[p] for p, _, _ in _MARKS]
    ends = [values[0], values[-1]]
    canvas.axes.plot(ends, [y, y], color=colour, linewidth=2, alpha=0.45, solid_capstyle="round")
    for (_, marker, name), value in zip(_MARKS, values, strict=True):
        (point,) = canvas.axes.plot(
            [value], [y], marker, color=colour, markersize=6, label=name if y == 0 else None, markeredgewidth=1.6
        )
        point.set_gid(svg.tip(f"{entry.label}: {name} {value:.3g} nats"))


@svg.styled
def timeline(spans: Sequence[Span], *, is_wide: bool = False) -> str | None:
    """When each step ran, and on what: a lane for each that ran at once, together by resource. None with too few to
    draw."""
    if len(spans) < 2:
        return None
    placed = lanes(spans)
    n_lanes = sum(len(rows) for rows in placed.values())
    canvas = svg.canvas(WIDE_IN if is_wide else NARROW_IN, (1.1 if is_wide else 1.6) + 0.24 * n_lanes)
    _draw_lanes(canvas, placed, list(dict.fromkeys(s.kind for s in spans)))
    canvas.style("x")
    canvas.axes.tick_params(axis="y", length=0)
    canvas.legend(8 if is_wide else 2)
    return canvas.svg("Timeline of the build", "wide" if is_wide else "")


def _draw_lanes(canvas: Canvas, placed: Mapping[str, Sequence[Sequence[Span]]], kinds: Sequence[str]) -> None:
    axes, rows = canvas.axes, [row for lane in placed.values() for row in lane]
    ends = max(s.start + s.seconds for row in rows for s in row)
    unit, name = next(((u, n) for u, n in ((3600, "hours"), (60, "minutes")) if ends > 3 * u), (1, "seconds"))
    explained = {s.kind: s for row in rows for s in row}
    for y, span in ((y, span) for y, row in enumerate(rows) for span in row):
        bar = _bar(canvas, y, span, kinds.index(span.kind), unit, ends / 500)
        bar.set_label(span.kind if explained[span.kind] is span else None)
        axes.add_patch(bar)
    tops = [0, *itertools.accumulate(len(lane) for lane in placed.values())]
    for top in tops[1:-1]:
        axes.axhline(top - 0.5, color=canvas.theme.grid, linewidth=0.7)
    axes.set_yticks([(a + b - 1) / 2 for a, b in itertools.pairwise(tops)], list(placed))
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(0, ends / unit * 1.01)
    axes.set_xlabel(name)


def _bar(canvas: Canvas, y: int, span: Span, series: int, unit: float, shortest: float) -> Any:
    """A step as a bar at least `shortest` seconds wide, so that it is seen."""
    from matplotlib.patches import Rectangle

    bar = Rectangle((span.start / unit, y - 0.37), max(span.seconds, shortest) / unit, 0.74,
                    facecolor=canvas.series(series), edgecolor=canvas.theme.card, linewidth=0.6)  # fmt: skip
    bar.set_gid(svg.tip(f"{span.label}: {span.seconds:.1f} s on {span.resource}, from {span.start:.1f} s"))
    return bar


def _by_size(entries: Sequence[Entry], known: Published | None, taken: str) -> Scatter | None:
    loss, size = scatter.loss_of(entries), scatter.size_of(entries)
    shown = scatter.shown(entries, loss, size)
    if len(shown) < 2:
        return None
    base = next((e for e in entries if e.is_base), None) if loss is scatter.PERPLEXITY else None
    return Scatter(shown, loss, size, taken, base, known)
