"""Labels of points in a drawing, none of which covers another one or a point."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

_AROUND = ((7, 4), (-7, 4), (7, -4), (-7, -4), (0, 8), (0, -8), (9, 0), (-9, 0))
"""Where a label may stand beside its point: how far its nearest edge or corner is, in points. The best places first."""
_FURTHER = (1.0, 2.4, 4.0)
"""Distances from the point, tried one after the other; from the second on a line leads to the point."""
_MARKER, _GAP = 6.0, 1.0
"""Half of what a marker takes, and what stays free around a label, in points."""
_ALONG = 24
"""Places along each part of a line that a label should not cover."""


@dataclass(frozen=True)
class Label:
    """A text beside a point, in the axes' own coordinates."""

    text: str
    x: float
    y: float


def place(axes: Any, labels: Sequence[Label], points: Sequence[tuple[float, float]], **style: Any) -> None:
    """Write labels where they cover neither each other nor `points`, and no line of the drawing if that can be.

    One for which there is no room is left out. The axes have their final limits and scales, and their drawing all that
    takes room beside them.
    """
    axes.figure.draw_without_rendering()
    pixels = axes.figure.dpi / 72
    places = axes.transData.transform(points)
    taken = [_box(place, _MARKER * pixels) for place in places]
    lines = [box for corners in _lines(axes) for box in _along(corners)]
    written: list[Any] = []
    for label in labels:
        sheet = _Sheet(axes, label, places, style)
        found = sheet.free_place([*taken, *lines], written) or sheet.free_place(taken, written)
        if found is not None:
            sheet.write(found)
            written.append(found.box.padded(_GAP * pixels))
            taken += found.leader


def _lines(axes: Any) -> Iterator[Any]:
    """The corners of all lines of a drawing and of its error bars, in pixels."""
    from matplotlib.collections import LineCollection

    for line in axes.lines:
        if line.get_linestyle() != "None":
            yield line.get_transform().transform(line.get_xydata())
    for bars in axes.collections:
        if isinstance(bars, LineCollection):
            yield from (bars.get_transform().transform(segment) for segment in bars.get_segments())


@dataclass(frozen=True)
class _Place:
    """A place for a label: its offset in points, its box in pixels, and boxes along the line that leads to its point."""

    offset: tuple[float, float]
    box: Any
    leader: Sequence[Any]


class _Sheet:
    """Where one label could stand."""

    def __init__(self, axes: Any, label: Label, points: Any, style: dict[str, Any]) -> None:
        self.axes, self.label, self.points, self.style = axes, label, points, style
        probe = axes.text(0, 0, label.text, parse_math=False, **style)
        box = probe.get_window_extent()
        probe.remove()
        self.width, self.height = box.width, box.height
        self.at = axes.transData.transform((label.x, label.y))

    def free_place(self, others: Sequence[Any], labels: Sequence[Any]) -> _Place | None:
        """The first place that covers nothing of `others` and `labels`.

        Its line crosses no label; without a line it is nearer to its own point than to any other.
        """
        for factor, (dx, dy) in itertools.product(_FURTHER, _AROUND):
            box = self._box(dx * factor, dy * factor)
            leader = list(_along([self.at, _nearest(box, *self.at)])) if factor > 1 else []
            free = not _overlap([box], [*others, *labels]) and not _overlap(leader, labels)
            if free and _is_inside(self.axes.bbox, box) and (leader or self._is_own(box)):
                return _Place((dx * factor, dy * factor), box, leader)
        return None

    def _is_own(self, box: Any) -> bool:
        """Whether nobody would take it for the label of another point."""
        own = _distance(box, *self.at)
        return all(_distance(box, *point) >= own for point in self.points)

    def _box(self, dx: float, dy: float) -> Any:
        from matplotlib.transforms import Bbox

        pixels = self.axes.figure.dpi / 72
        x = self.at[0] + dx * pixels - self.width * (1 - _sign(dx)) / 2
        y = self.at[1] + dy * pixels - self.height * (1 - _sign(dy)) / 2
        return Bbox.from_bounds(x, y, self.width, self.height)

    def write(self, place: _Place) -> None:
        """Write it there."""
        dx, dy = place.offset
        line = {
            "arrowstyle": "-",
            "linewidth": 0.5,
            "shrinkA": 0,
            "shrinkB": _MARKER,
            "color": self.style.get("color"),
        }
        text = self.axes.annotate(
            self.label.text, (self.label.x, self.label.y), xytext=place.offset, textcoords="offset points",
            ha=("center", "left", "right")[_sign(dx)], va=("center", "bottom", "top")[_sign(dy)], parse_math=False,
            arrowprops=line if place.leader else None, **self.style,
        )  # fmt: skip
        text.set_in_layout(False)


def _sign(number: float) -> int:
    return (number > 0) - (number < 0)


def _overlap(boxes: Sequence[Any], others: Sequence[Any]) -> bool:
    return any(box.overlaps(other) for box in boxes for other in others)


def _nearest(box: Any, x: float, y: float) -> tuple[float, float]:
    """The point of a box that is nearest to a place."""
    return min(max(x, box.x0), box.x1), min(max(y, box.y0), box.y1)


def _distance(box: Any, x: float, y: float) -> float:
    near = _nearest(box, x, y)
    return math.hypot(near[0] - x, near[1] - y)


def _along(corners: Sequence[Any]) -> Iterator[Any]:
    """Small boxes along a line through several places, in pixels."""
    import numpy as np

    for start, end in itertools.pairwise(corners):
        yield from (_box(place, 0.5) for place in np.linspace(start, end, _ALONG))


def _is_inside(outer: Any, box: Any) -> bool:
    return bool(outer.x0 <= box.x0 and box.x1 <= outer.x1 and outer.y0 <= box.y0 and box.y1 <= outer.y1)


def _box(middle: Any, half: float) -> Any:
    """A square around a place, in pixels."""
    from matplotlib.transforms import Bbox

    x, y = middle
    return Bbox.from_extents(x - half, y - half, x + half, y + half)
