"""Drawings as SVG that takes its colours from the page, so that they follow dark mode.

Colours are written as placeholders, `#0a00NN` for series NN, and replaced by CSS variables at the end.
"""

from __future__ import annotations

import contextlib
import functools
import html
import io
import re
from collections.abc import Callable, Iterator
from typing import Any, ParamSpec

INK, MUTED, GRID, ON_BAR = "#010203", "#010204", "#010205", "#010207"
_VARIABLES = {INK: "var(--ink)", MUTED: "var(--muted)", GRID: "var(--grid)", ON_BAR: "var(--on-bar)"}
_SIZE = (4.4, 3.2)
_P = ParamSpec("_P")


@contextlib.contextmanager
def plain_text() -> Iterator[None]:
    """Settings that hold for one drawing: text that stays text, letters of one size, nothing that is random."""
    import matplotlib as mpl

    with mpl.rc_context(
        {"svg.fonttype": "none", "svg.hashsalt": "ggufkit", "font.size": 8.6, "text.parse_math": False}
    ):
        yield


def styled(draw: Callable[_P, str | None]) -> Callable[_P, str | None]:
    """Draw with settings that hold for this drawing alone."""

    @functools.wraps(draw)
    def drawn(*args: _P.args, **kwargs: _P.kwargs) -> str | None:
        with plain_text():
            return draw(*args, **kwargs)

    return drawn


def figure(height: float = _SIZE[1]) -> tuple[Any, Any]:
    """An empty drawing, `height` inches high, and its axes."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(_SIZE[0], height), layout="constrained")
    axes = drawing.add_subplot()
    drawing.patch.set_alpha(0)
    axes.patch.set_alpha(0)
    return drawing, axes


def plain_ticks(axis: Any) -> None:
    """0.01 rather than a power of ten: readable, and text of one size."""
    axis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_minor_formatter(lambda *_: "")


def style(axes: Any, grid: str) -> None:
    """Lines, labels and a grid along "x", "y" or "both"."""
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


def legend(axes: Any, columns: int) -> None:
    """The legend, below the drawing."""
    handles, labels = axes.get_legend_handles_labels()
    axes.figure.legend(
        handles, labels, loc="outside lower center", ncols=columns, frameon=False, labelcolor=INK, fontsize=8.5,
        handletextpad=0.4, columnspacing=1.2,
    )  # fmt: skip


def series(index: int) -> str:
    """The colour of a series."""
    return f"#0a00{index % 8 + 1:02d}"


def tip(text: str) -> str:
    """An id that carries a tooltip to `svg`, which makes it a title."""
    return "tip:" + text.encode().hex()


def svg(drawing: Any, name: str) -> str:
    """The text of a drawing, to stand in a page."""
    out = io.StringIO()
    drawing.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="tip:([0-9a-f]+)">', _title, text)
    text = _colours(text)
    head = f'<svg role="img" aria-label="{html.escape(name)}" class="plot"'
    return _private_ids(text.replace("<svg", head, 1), name)


def _title(match: re.Match[str]) -> str:
    return f'<g class="point"><title>{html.escape(bytes.fromhex(match[1]).decode())}</title>'


def _colours(text: str) -> str:
    for placeholder, variable in _VARIABLES.items():
        text = text.replace(placeholder, variable)
    return re.sub(r"#0a000(\d)", r"var(--s\1)", text)


def _private_ids(text: str, name: str) -> str:
    """Ids of several drawings on one page must differ."""
    prefix = re.sub(r"\W+", "-", name.lower())
    text = re.sub(r'id="([^"]+)"', rf'id="{prefix}-\1"', text)
    return re.sub(r'(href="#|url\(#)', rf"\g<1>{prefix}-", text)
