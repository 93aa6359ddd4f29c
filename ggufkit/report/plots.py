"""The plots of `report.html`, as SVG."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ggufkit.core import escape, variants
from ggufkit.report import svg
from ggufkit.report.anchors import Anchor, Published, anchor_for
from ggufkit.report.data import Entry, bits
from ggufkit.report.labels import Label, place
from ggufkit.report.recommend import pareto
from ggufkit.report.svg import GRID, INK, MUTED, ON_BAR
from ggufkit.report.timeline import Span

_MARKERS, _RECIPE = "osD^vP", "*"
_ORDER = tuple(variants.BY_NAME)
_MB = 1e6


@dataclass(frozen=True)
class _Axis:
    """What quality is drawn against: its label, a file's value, and the error of that."""

    label: str
    value: Callable[[Entry], float | None]
    error: Callable[[Entry], float | None] = lambda _: None


_FILE_SIZE = _Axis("file size (MB)", lambda e: e.row.size_bytes / _MB)
_SPEED = _Axis("generation, tg128 (tokens/s)", lambda e: e.row.tg_tps, lambda e: e.row.tg_tps_stddev)


@svg.styled
def quality_by_size(entries: Sequence[Entry], known: Published | None = None) -> str | None:
    """Loss against file size with error bars, the Pareto front, and what others published. None with too little
    to draw."""
    return _scatter("Quality against size", entries, _FILE_SIZE, known, front=True)


@svg.styled
def quality_by_speed(entries: Sequence[Entry]) -> str | None:
    """Loss against generation speed. None where speed or quality was not measured."""
    return _scatter("Quality against speed", entries, _SPEED)


@svg.styled
def composition(entries: Sequence[Entry]) -> str | None:
    """What each file really holds: the share of its bytes by tensor type, as stacked bars."""
    if not entries:
        return None
    types = sorted({t for e in entries for t in e.composition}, key=lambda t: (-bits(t), t))
    figure, axes = svg.figure(height=0.9 + 0.34 * len(entries))
    for y, entry in enumerate(entries):
        total, left = sum(entry.composition.values()), 0.0
        for kind, n_bytes in entry.composition.items():
            share = 100 * n_bytes / total
            bar = axes.barh(y, share, left=left, height=0.72, color=svg.series(types.index(kind)), edgecolor=GRID)
            bar[0].set_gid(svg.tip(f"{entry.label}: {share:.1f} % {kind} ({n_bytes / _MB:.1f} MB)"))
            if share > 9:
                axes.text(left + share / 2, y, kind, ha="center", va="center", fontsize=7.5, color=ON_BAR)
            left += share
    axes.set_yticks(range(len(entries)), [e.label for e in entries])
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel("share of the file's bytes (%)")
    svg.style(axes, "x")
    return svg.svg(figure, "Tensor types in each file")


@svg.styled
def percentiles(entries: Sequence[Entry]) -> str | None:
    """How KL divergence is spread over the tokens: from the median to the worst, on a log axis."""
    shown = [e for e in entries if e.percentiles.get(0.5, 0) > 0]
    if not shown:
        return None
    figure, axes = svg.figure(height=1.0 + 0.34 * len(shown))
    marks = (
        (0.5, "o", "median"),
        (0.9, "|", "90 %"),
        (0.99, "D", "99 %"),
        (0.999, "s", "99.9 %"),
        (1.0, "x", "max"),
    )
    for y, entry in enumerate(shown):
        values = [entry.percentiles[p] for p, _, _ in marks]
        colour = _colour(entry)
        axes.plot([values[0], values[-1]], [y, y], color=colour, linewidth=2, alpha=0.45, solid_capstyle="round")
        for (_, marker, name), value in zip(marks, values, strict=True):
            (point,) = axes.plot(
                [value],
                [y],
                marker,
                color=colour,
                markersize=6,
                label=name if y == 0 else None,
                markeredgewidth=1.6,
            )
            point.set_gid(svg.tip(f"{entry.label}: {name} {value:.3g} nats"))
    axes.set_xscale("log")
    svg.plain_ticks(axes.xaxis)
    axes.set_yticks(range(len(shown)), [e.label for e in shown])
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.set_xlabel("KL divergence of a token (nats)")
    svg.style(axes, "x")
    svg.legend(axes, 5)
    return svg.svg(figure, "KL divergence percentiles")


@svg.styled
def timeline(spans: Sequence[Span]) -> str | None:
    """When each step ran, and on what. None with too few to draw."""
    if len(spans) < 2:
        return None
    resources = sorted({s.resource for s in spans})
    figure, axes = svg.figure(height=1.0 + 0.26 * len(spans))
    for y, span in enumerate(spans):
        colour = svg.series(resources.index(span.resource))
        known = any(s.resource == span.resource for s in spans[:y])
        label = None if known else span.resource
        width = max(span.seconds, 0.05)
        bar = axes.barh(y, width, left=span.start, height=0.7, color=colour, edgecolor=GRID, label=label)
        bar[0].set_gid(svg.tip(f"{span.label}: {span.seconds:.1f} s on {span.resource}, from {span.start:.1f} s"))
    axes.set_yticks(range(len(spans)), [s.label for s in spans])
    axes.set_ylim(len(spans) - 0.4, -0.6)
    axes.set_xlabel("seconds")
    svg.style(axes, "x")
    svg.legend(axes, len(resources))
    return svg.svg(figure, "Timeline of the build")


def _scatter(
    title: str, entries: Sequence[Entry], axis: _Axis, known: Published | None = None, *, front: bool = False
) -> str | None:
    with_kld = any(e.row.kld_mean for e in entries)
    shown = [e for e in entries if axis.value(e) is not None and _y(e, with_kld) is not None]
    if len(shown) < 2:
        return None
    figure, axes = svg.figure()
    if front:
        _draw_fronts(axes, entries, axis, with_kld)
    for entry in shown:
        _draw_point(axes, entry, axis, with_kld)
    if known is not None:
        _draw_anchors(axes, shown, known, axis, with_kld)
    if with_kld:
        axes.set_yscale("log")
        svg.plain_ticks(axes.yaxis)
    axes.margins(x=0.15, y=0.14)
    axes.ticklabel_format(axis="x", useOffset=False)
    if front:
        _widen(axes, max(float(axis.value(e) or 0) for e in shown))
    axes.set_xlabel(axis.label)
    axes.set_ylabel("mean KL divergence (nats)" if with_kld else "perplexity")
    svg.style(axes, "both")
    svg.legend(axes, 2 if any(e.recipe for e in shown) else 3)
    _label_types(axes, shown, axis, with_kld)
    return svg.svg(figure, title)


def _widen(axes: Any, largest: float) -> None:
    """Show files that differ by their metadata only as what they are: of one size."""
    low, high = axes.get_xlim()
    if high - low < 0.1 * largest:
        middle = (low + high) / 2
        axes.set_xlim(middle - 0.05 * largest, middle + 0.05 * largest)


def _y(entry: Entry, with_kld: bool) -> float | None:
    if with_kld:
        return entry.row.kld_mean if entry.row.kld_mean and entry.row.kld_mean > 0 else None
    return entry.row.ppl


def _draw_fronts(axes: Any, entries: Sequence[Entry], axis: _Axis, with_kld: bool) -> None:
    """The Pareto front; with recipes, that of the recipes and that of the presets for each variant that has both."""
    for line in _fronts(entries):
        points = [(axis.value(e), y) for e in line.files if (y := _y(e, with_kld)) is not None]
        if len(points) > 1:
            axes.plot(*zip(*points, strict=True), color=line.colour, linewidth=1.4, linestyle=line.dashes,
                      label=line.label, zorder=1)  # fmt: skip


@dataclass(frozen=True)
class _Front:
    files: Sequence[Entry]
    colour: str = MUTED
    dashes: tuple[int, tuple[int, ...]] = (0, (4, 3))
    label: str | None = "Pareto front"


def _fronts(entries: Sequence[Entry]) -> Iterator[_Front]:
    variants_of_recipes = dict.fromkeys(e.row.variant for e in entries if e.recipe is not None)
    if not variants_of_recipes:
        yield _Front(pareto(entries))
    for variant in variants_of_recipes:
        family = [e for e in entries if e.row.variant == variant]
        colour = _colour(family[0])
        yield _Front(pareto([e for e in family if e.recipe is None]), colour, (0, (2, 3)), None)
        yield _Front(pareto([e for e in family if e.recipe is not None]), colour, (0, ()), None)


def _draw_point(axes: Any, entry: Entry, axis: _Axis, with_kld: bool) -> None:
    x, across = axis.value(entry) or 0.0, axis.error(entry)
    y, error = _y(entry, with_kld), entry.row.kld_stderr if with_kld else entry.row.ppl_stderr
    variant = entry.row.variant
    marker = _MARKERS[_ORDER.index(variant) % len(_MARKERS)] if variant in _ORDER else "o"
    used = set(axes.get_legend_handles_labels()[1])
    label = variant_title(variant)
    size = 7.5
    if entry.recipe is not None:
        marker, label, size = _RECIPE, f"{label}, by recipe", 12
    container = axes.errorbar(
        [x], [y], yerr=[error] if error else None, xerr=[across] if across else None, fmt=marker,
        color=_colour(entry), markersize=size, markeredgecolor=GRID, elinewidth=1.3, capsize=3,
        label=None if label in used else label, zorder=3,
    )  # fmt: skip
    shown = f"{y:.5g}" + (f" ± {error:.2g}" if error else "")
    container[0].set_gid(svg.tip(f"{entry.label}: {'KLD' if with_kld else 'PPL'} {shown} at {x:,.1f}"))


def _draw_anchors(axes: Any, shown: Sequence[Entry], known: Published, axis: _Axis, with_kld: bool) -> None:
    pairs = [(e, a, v) for e in shown if (a := anchor_for(e, known)) and (v := _anchor_value(a, with_kld))]
    for i, (entry, _, value) in enumerate(pairs):
        label = f"published, {known.model}" if i == 0 else None
        (mark,) = axes.plot(
            [axis.value(entry)], [value], "D", markerfacecolor="none", markeredgecolor=MUTED, markersize=9, label=label,
            markeredgewidth=1.4, zorder=2,
        )  # fmt: skip
        mark.set_gid(svg.tip(f"published for {known.model} {entry.label}: {value}"))


def _anchor_value(anchor: Anchor, with_kld: bool) -> float | None:
    return anchor.kld if with_kld else anchor.ppl


def _label_types(axes: Any, shown: Sequence[Entry], axis: _Axis, with_kld: bool) -> None:
    """Name each type once, beside its best variant: several at one size would cover each other."""
    best: dict[str, Entry] = {}
    for entry in shown:
        other = best.get(entry.row.type)
        if other is None or (_y(entry, with_kld) or 0) < (_y(other, with_kld) or 0):
            best[entry.row.type] = entry
    named = [(kind, axis.value(e) or 0.0, _y(e, with_kld) or 0.0) for kind, e in best.items()]
    points = [(axis.value(e) or 0.0, _y(e, with_kld) or 0.0) for e in shown]
    labels = [Label(escape.terminal(kind), x, y) for kind, x, y in named]
    place(axes, labels, points, fontsize=8.5, color=INK)


def _colour(entry: Entry) -> str:
    return svg.series(_ORDER.index(entry.row.variant) if entry.row.variant in _ORDER else 0)


def variant_title(variant: str) -> str:
    """A variant in words, for legends."""
    words = {"awq": "AWQ", "imatrix": "importance matrix", "gptq": "GPTQ", "plain": "plain"}
    return " + ".join(words.get(part, escape.terminal(part)) for part in variant.split("+"))
