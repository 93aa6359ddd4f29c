"""Drawings as SVG that takes its colours from the page, so that they follow dark mode; or as a picture of its own.

For a page colours are written as placeholders and replaced by CSS variables at the end.
"""

from __future__ import annotations

import contextlib
import functools
import html
import io
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

from ggufkit.report.palette import LIGHT, Theme

NARROW_IN, WIDE_IN = 4.4, 10.6
"""Widths of drawings, in inches, whose letters are readable on half a page or a phone, and on a whole page."""
_PLACEHOLDERS = Theme(
    page="#010201", card="#010202", ink="#010203", muted="#010204", grid="#010205", accent="#010206", mark="#010207",
    series=tuple(f"#0a00{i:02d}" for i in range(1, len(LIGHT.series) + 1)),
)  # fmt: skip
_DECADES = 2.0
_DPI = 160
_P = ParamSpec("_P")
_R = TypeVar("_R")


@dataclass(frozen=True)
class Canvas:
    """A drawing, and the colours that it is drawn with."""

    figure: Any
    axes: Any
    theme: Theme

    def series(self, index: int) -> str:
        """The colour of a series."""
        return self.theme.series[index % len(self.theme.series)]

    def style(self, grid: str) -> None:
        """Lines, labels and a grid along "x", "y" or "both"."""
        axes, theme = self.axes, self.theme
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        for side in ("left", "bottom"):
            axes.spines[side].set_color(theme.muted)
        axes.tick_params(colors=theme.muted, labelcolor=theme.ink, which="both")
        for axis in (axes.xaxis, axes.yaxis):
            axis.label.set_color(theme.ink)
            axis.get_offset_text().set_color(theme.ink)
        axes.grid(True, axis=grid, color=theme.grid, linewidth=0.7)
        axes.set_axisbelow(True)

    def legend(self, most: int) -> None:
        """The legend, below the drawing, in rows of `most` at most."""
        handles, labels = self.axes.get_legend_handles_labels()
        n_rows = math.ceil(len(labels) / most)
        columns = math.ceil(len(labels) / max(n_rows, 1)) or 1
        self.figure.legend(
            handles, labels, loc="outside lower center", ncols=columns, frameon=False, labelcolor=self.theme.ink,
            fontsize=8.5, handletextpad=0.4, columnspacing=1.2,
        )  # fmt: skip

    def svg(self, name: str, key: str = "") -> str:
        """The text of the drawing, to stand in a page; `key` tells apart two of one name."""
        out = io.StringIO()
        self.figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
        text = out.getvalue()
        text = text[text.index("<svg") :]
        text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
        text = re.sub(r'<g id="tip:([0-9a-f]+)">', _title, text)
        text = _colours(text)
        head = f'<svg role="img" aria-label="{html.escape(name)}" class="plot"'
        return _private_ids(text.replace("<svg", head, 1), f"{name} {key}".strip())

    def png(self) -> bytes:
        """The drawing as a picture."""
        out = io.BytesIO()
        self.figure.savefig(out, format="png", dpi=_DPI, metadata={"Software": None})
        return out.getvalue()


def canvas(width: float = NARROW_IN, height: float = 3.2, theme: Theme | None = None) -> Canvas:
    """An empty drawing of a size in inches: for a page, unless it has a theme of its own."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(width, height), layout="constrained")
    axes = drawing.add_subplot()
    if theme is None:
        drawing.patch.set_alpha(0)
        axes.patch.set_alpha(0)
    return Canvas(drawing, axes, theme or _PLACEHOLDERS)


@contextlib.contextmanager
def plain_text() -> Iterator[None]:
    """Settings that hold for one drawing: text that stays text, letters of one size, nothing that is random."""
    import matplotlib as mpl

    with mpl.rc_context(
        {"svg.fonttype": "none", "svg.hashsalt": "ggufkit", "font.size": 8.6, "text.parse_math": False}
    ):
        yield


def styled(draw: Callable[_P, _R]) -> Callable[_P, _R]:
    """Draw with settings that hold for this drawing alone."""

    @functools.wraps(draw)
    def drawn(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        with plain_text():
            return draw(*args, **kwargs)

    return drawn


def plain_ticks(axis: Any) -> None:
    """On a logarithmic axis: 0.01 rather than a power of ten, and several numbers however little the axis spans."""
    from matplotlib.ticker import LogLocator

    low, high = axis.get_view_interval()
    if low > 0 and math.log10(high / low) < _DECADES:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_minor_formatter(lambda *_: "")


def tip(text: str) -> str:
    """An id that carries a tooltip to `svg`, which makes it a title."""
    return "tip:" + text.encode().hex()


def _title(match: re.Match[str]) -> str:
    return f'<g class="point"><title>{html.escape(bytes.fromhex(match[1]).decode())}</title>'


def _colours(text: str) -> str:
    for declaration in _PLACEHOLDERS.css.rstrip(";").split("; "):
        variable, placeholder = declaration.split(": ")
        text = text.replace(placeholder, f"var({variable})")
    return text


def _private_ids(text: str, name: str) -> str:
    """Ids of several drawings on one page must differ."""
    prefix = re.sub(r"\W+", "-", name.lower())
    text = re.sub(r'id="([^"]+)"', rf'id="{prefix}-\1"', text)
    return re.sub(r'(href="#|url\(#)', rf"\g<1>{prefix}-", text)
