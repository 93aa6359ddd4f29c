"""A curve of KL divergence against bytes as a picture of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from ggufkit.core import escape
from ggufkit.core.manifest import PARTIAL
from ggufkit.core.units import GIB, MIB
from ggufkit.recipes.curve import Curve, Predicted, Preset, Verified
from ggufkit.report import svg
from ggufkit.report.labels import Label, place

FORMATS = ("svg", "png")
_SIZE, _DPI = (7.2, 4.6), 160
_PREDICTED, _VERIFIED, _PRESET = "#0072b2", "#d55e00", "#000000"
"""Of Okabe and Ito's colours, which readers with any colour vision tell apart."""
_P = TypeVar("_P", Predicted, Verified, Preset)


def save(curve: Curve, path: Path) -> None:
    """Draw a curve into `path`, as its suffix says: one of `FORMATS`."""
    partial = path.with_name(path.name + PARTIAL)
    with svg.plain_text():
        drawing = _draw(curve)
        kind = path.suffix.removeprefix(".")
        drawing.savefig(partial, format=kind, dpi=_DPI, metadata={"Date": None} if kind == "svg" else None)
    partial.replace(path)


def _draw(curve: Curve) -> Any:
    from matplotlib.figure import Figure

    drawing = Figure(figsize=_SIZE, layout="constrained")
    axes = drawing.add_subplot()
    sizes = [p.size_bytes for group in (curve.predicted, curve.verified, curve.presets) for p in group]
    unit, name = (GIB, "GiB") if max(sizes, default=0) >= GIB else (MIB, "MiB")
    _draw_expected(axes, _shown(curve.predicted), unit, _on("expected", curve.expected_on))
    measured, presets = _shown(curve.verified), _shown(curve.presets)
    _draw_measured(axes, measured, unit, "o", _VERIFIED, _on("recipes, measured", curve.measured_on))
    _draw_measured(axes, presets, unit, "x", _PRESET, _on("presets, measured", curve.measured_on))
    axes.set_yscale("log")
    svg.plain_ticks(axes.yaxis)
    axes.margins(x=0.08, y=0.1)
    axes.set_xlabel(f"file size ({name})")
    axes.set_ylabel("mean KL divergence (nats)")
    axes.set_title(escape.terminal(curve.model), fontsize=10)
    axes.grid(True, which="major", color="#d8dee4", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    labels = [Label(escape.terminal(p.name), p.size_bytes / unit, p.kld) for p in presets]
    points = [(v.size_bytes / unit, v.kld) for v in measured] + [(label.x, label.y) for label in labels]
    place(axes, labels, points, fontsize=8.5)
    return drawing


def _shown(points: Sequence[_P]) -> list[_P]:
    """What a logarithmic axis can show, from small to large."""
    return sorted((p for p in points if p.kld > 0), key=lambda p: p.size_bytes)


def _on(what: str, text: str) -> str:
    return f"{what} on {escape.terminal(text)}" if text else what


def _draw_expected(axes: Any, points: Sequence[Predicted], unit: float, label: str) -> None:
    xs, ys = [p.size_bytes / unit for p in points], [p.kld for p in points]
    axes.plot(xs, ys, color=_PREDICTED, linewidth=1.6, label=label, zorder=2)


def _draw_measured(
    axes: Any, points: Sequence[Verified] | Sequence[Preset], unit: float, marker: str, colour: str, label: str
) -> None:
    if not points:
        return
    errors = [p.kld_stderr or 0.0 for p in points]
    xs, ys = [p.size_bytes / unit for p in points], [p.kld for p in points]
    axes.errorbar(
        xs, ys, yerr=errors, fmt=marker, color=colour, markersize=7, markeredgewidth=1.6, elinewidth=1.3, capsize=3,
        label=label, zorder=3,
    )  # fmt: skip
