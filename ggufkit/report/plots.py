"""The plots of `report.html`: SVG that takes its colours from the page, so that they follow dark mode.

Colours are written as placeholders, `#0a00NN` for series NN, and replaced by CSS variables at the end.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ggufkit.report.anchors import Anchor, Published, anchor_for
from ggufkit.report.choose import pareto
from ggufkit.report.data import Entry
from ggufkit.report.timeline import Span
from ggufkit.report.verdict import ORDER, title

INK, MUTED, GRID = "#010203", "#010204", "#010205"
_VARIABLES = {INK: "var(--ink)", MUTED: "var(--muted)", GRID: "var(--grid)"}
_MARKERS = "osD^vP"
_SIZE = (4.4, 3.2)
_MB = 1e6


def quality_by_size(entries: Sequence[Entry], known: Published | None = None) -> str | None:
    """Loss against file size with error bars, the Pareto front, and what others published. None with too little
    to draw."""
    return _scatter(entries, lambda e: e.row.size_bytes / _MB, "file size (MB)", None, known, "size", front=True)


def quality_by_speed(entries: Sequence[Entry]) -> str | None:
    """Loss against generation speed. None where speed or quality was not measured."""
    return _scatter(
        entries,
        lambda e: e.row.tg_tps,
        "generation, tg128 (tokens/s)",
        lambda e: e.row.tg_tps_stddev,
        None,
        "speed",
        front=False,
    )


def composition(entries: Sequence[Entry]) -> str | None:
    """What each file really holds: the share of its bytes by tensor type, as stacked bars."""
    if not entries:
        return None
    types = sorted({t for e in entries for t in e.composition}, key=_bits_of, reverse=True)
    figure, axes = _figure(height=0.9 + 0.34 * len(entries))
    for y, entry in enumerate(entries):
        total, left = sum(entry.composition.values()), 0.0
        for kind, n_bytes in entry.composition.items():
            share = 100 * n_bytes / total
            bar = axes.barh(y, share, left=left, height=0.72, color=_series(types.index(kind)), edgecolor=GRID)
            bar[0].set_gid(_tip(f"{entry.label}: {share:.1f} % {kind} ({n_bytes / _MB:.1f} MB)"))
            if share > 9:
                axes.text(left + share / 2, y, kind, ha="center", va="center", fontsize=7.5, color="#010207")
            left += share
    axes.set_yticks(range(len(entries)), [e.label for e in entries])
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel("share of the file's bytes (%)")
    _style(axes, "x")
    return _svg(figure, "Tensor types in each file")


def percentiles(entries: Sequence[Entry]) -> str | None:
    """How KL divergence is spread over the tokens: from the median to the worst, on a log axis."""
    shown = [e for e in entries if e.percentiles.get(0.5, 0) > 0]
    if not shown:
        return None
    figure, axes = _figure(height=1.0 + 0.34 * len(shown))
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
            point.set_gid(_tip(f"{entry.label}: {name} {value:.3g} nats"))
    axes.set_xscale("log")
    _plain_ticks(axes.xaxis)
    axes.set_yticks(range(len(shown)), [e.label for e in shown])
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.set_xlabel("KL divergence of a token (nats)")
    _style(axes, "x")
    _legend(axes, 5)
    return _svg(figure, "KL divergence percentiles")


def timeline(spans: Sequence[Span]) -> str | None:
    """When each step ran, and on what. None with too few to draw."""
    if len(spans) < 2:
        return None
    resources = sorted({s.resource for s in spans})
    figure, axes = _figure(height=1.0 + 0.26 * len(spans))
    for y, span in enumerate(spans):
        colour = _series(resources.index(span.resource))
        known = any(s.resource == span.resource for s in spans[:y])
        label = None if known else span.resource
        width = max(span.seconds, 0.05)
        bar = axes.barh(y, width, left=span.start, height=0.7, color=colour, edgecolor=GRID, label=label)
        bar[0].set_gid(_tip(f"{span.label}: {span.seconds:.1f} s on {span.resource}, from {span.start:.1f} s"))
    axes.set_yticks(range(len(spans)), [s.label for s in spans])
    axes.set_ylim(len(spans) - 0.4, -0.6)
    axes.set_xlabel("seconds")
    _style(axes, "x")
    _legend(axes, len(resources))
    return _svg(figure, "Timeline of the build")


def _scatter(
    entries: Sequence[Entry],
    x_of: Callable[[Entry], float | None],
    x_label: str,
    x_error: Callable[[Entry], float | None] | None,
    known: Published | None,
    name: str,
    *,
    front: bool,
) -> str | None:
    with_kld = any(e.row.kld_mean for e in entries)
    shown = [e for e in entries if x_of(e) is not None and _y(e, with_kld) is not None]
    if len(shown) < 2:
        return None
    figure, axes = _figure()
    if front:
        _draw_front(axes, [e for e in pareto(entries) if e in shown], x_of, with_kld)
    for entry in shown:
        _draw_point(axes, entry, float(x_of(entry) or 0), x_error, with_kld)
    if known is not None:
        _draw_anchors(axes, shown, known, x_of, with_kld)
    _label_types(axes, shown, x_of, with_kld)
    if with_kld:
        axes.set_yscale("log")
        _plain_ticks(axes.yaxis)
    axes.margins(x=0.15, y=0.14)
    axes.ticklabel_format(axis="x", useOffset=False)
    if front:
        _widen(axes, max(float(x_of(e) or 0) for e in shown))
    axes.set_xlabel(x_label)
    axes.set_ylabel("mean KL divergence (nats)" if with_kld else "perplexity")
    _style(axes, "both")
    _legend(axes, 3)
    return _svg(figure, f"Quality against {name}")


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


def _draw_front(axes: Any, front: Sequence[Entry], x_of: Callable[[Entry], float | None], with_kld: bool) -> None:
    xs, ys = [x_of(e) for e in front], [_y(e, with_kld) for e in front]
    axes.plot(xs, ys, color=MUTED, linewidth=1.4, linestyle=(0, (4, 3)), label="Pareto front", zorder=1)


def _draw_point(
    axes: Any, entry: Entry, x: float, x_error: Callable[[Entry], float | None] | None, with_kld: bool
) -> None:
    y, error = _y(entry, with_kld), entry.row.kld_stderr if with_kld else entry.row.ppl_stderr
    variant = entry.row.variant
    marker = _MARKERS[ORDER.index(variant) % len(_MARKERS)] if variant in ORDER else "o"
    used = set(axes.get_legend_handles_labels()[1])
    label = title(variant)
    across = x_error(entry) if x_error is not None else None
    container = axes.errorbar(
        [x], [y], yerr=[error] if error else None, xerr=[across] if across else None, fmt=marker,
        color=_colour(entry), markersize=7.5, markeredgecolor=GRID, elinewidth=1.3, capsize=3,
        label=None if label in used else label, zorder=3,
    )  # fmt: skip
    shown = f"{y:.5g}" + (f" ± {error:.2g}" if error else "")
    container[0].set_gid(_tip(f"{entry.label}: {'KLD' if with_kld else 'PPL'} {shown} at {x:,.1f}"))


def _draw_anchors(
    axes: Any, shown: Sequence[Entry], known: Published, x_of: Callable[[Entry], float | None], with_kld: bool
) -> None:
    pairs = [(e, a, v) for e in shown if (a := anchor_for(e, known)) and (v := _anchor_value(a, with_kld))]
    for i, (entry, _, value) in enumerate(pairs):
        label = f"published, {known.model}" if i == 0 else None
        (mark,) = axes.plot(
            [x_of(entry)], [value], "D", markerfacecolor="none", markeredgecolor=MUTED, markersize=9, label=label,
            markeredgewidth=1.4, zorder=2,
        )  # fmt: skip
        mark.set_gid(_tip(f"published for {known.model} {entry.label}: {value}"))


def _anchor_value(anchor: Anchor, with_kld: bool) -> float | None:
    return anchor.kld if with_kld else anchor.ppl


def _label_types(axes: Any, shown: Sequence[Entry], x_of: Callable[[Entry], float | None], with_kld: bool) -> None:
    """Name each type once, beside its best variant: several at one size would cover each other."""
    best: dict[str, Entry] = {}
    for entry in shown:
        other = best.get(entry.row.type)
        if other is None or (_y(entry, with_kld) or 0) < (_y(other, with_kld) or 0):
            best[entry.row.type] = entry
    for kind, entry in best.items():
        axes.annotate(
            kind, (x_of(entry), _y(entry, with_kld)), xytext=(7, 5), textcoords="offset points", fontsize=8.5,
            color=INK,
        )  # fmt: skip


def _figure(height: float = _SIZE[1]) -> tuple[Any, Any]:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "ggufkit", "font.size": 8.6})
    figure = Figure(figsize=(_SIZE[0], height), layout="constrained")
    axes = figure.add_subplot()
    figure.patch.set_alpha(0)
    axes.patch.set_alpha(0)
    return figure, axes


def _plain_ticks(axis: Any) -> None:
    """0.01 rather than a power of ten: readable, and text of one size."""
    axis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_minor_formatter(lambda *_: "")


def _style(axes: Any, grid: str) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(MUTED)
    axes.tick_params(colors=MUTED, labelcolor=INK, which="both")
    for axis in (axes.xaxis, axes.yaxis):
        axis.label.set_color(INK)
        axis.get_offset_text().set_color(INK)
    axes.grid(True, axis=grid, color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)


def _legend(axes: Any, columns: int) -> None:
    handles, labels = axes.get_legend_handles_labels()
    axes.figure.legend(
        handles, labels, loc="outside lower center", ncols=columns, frameon=False, labelcolor=INK, fontsize=8.5,
        handletextpad=0.4, columnspacing=1.2,
    )  # fmt: skip


def _series(index: int) -> str:
    return f"#0a00{index % 8 + 1:02d}"


def _colour(entry: Entry) -> str:
    return _series(ORDER.index(entry.row.variant) if entry.row.variant in ORDER else 0)


def _bits_of(kind: str) -> float:
    from ggufkit.report.data import bits

    return bits(kind)


def _tip(text: str) -> str:
    """An id that carries a tooltip to `_svg`, which makes it a title."""
    return "tip:" + text.encode().hex()


def _svg(figure: Any, name: str) -> str:
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="tip:([0-9a-f]+)">', _title, text)
    text = _colours(text, _VARIABLES)
    head = f'<svg role="img" aria-label="{html.escape(name)}" class="plot"'
    return _private_ids(text.replace("<svg", head, 1), name)


def _title(match: re.Match[str]) -> str:
    return f'<g class="point"><title>{html.escape(bytes.fromhex(match[1]).decode())}</title>'


def _colours(text: str, variables: Mapping[str, str]) -> str:
    for placeholder, variable in {**variables, "#010207": "var(--on-bar)"}.items():
        text = text.replace(placeholder, variable)
    return re.sub(r"#0a000(\d)", r"var(--s\1)", text)


def _private_ids(text: str, name: str) -> str:
    """Ids of several drawings on one page must differ."""
    prefix = re.sub(r"\W+", "-", name.lower())
    text = re.sub(r'id="([^"]+)"', rf'id="{prefix}-\1"', text)
    return re.sub(r'(href="#|url\(#)', rf"\g<1>{prefix}-", text)
