"""Labels of points in a drawing, none of which covers another one or a point."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

_BESIDE = ((7, 4), (-7, 4), (7, -4), (-7, -4), (0, 8), (0, -8), (9, 0), (-9, 0))
"""Where a label may stand beside its point: how far its nearest edge or corner is, in points. The best places first."""
_FURTHER, _DIRECTIONS = (14, 20, 28, 38, 50, 64), 16
"""Distances and directions in which it may stand further away, with a line that leads to the point."""
_MARKER, _GAP = 6.0, 1.0
"""Half of what a marker takes, and what stays free around a label, in points."""
_ALONG = 24
"""Places along each part of a line that a label should not cover."""


@dataclass(frozen=True)
class Label:
    """A text beside a point, in the axes' own coordinates; `style` is what it has besides that of all."""

    text: str
    x: float
    y: float
    style: Mapping[str, Any] = field(default_factory=dict)


def place(axes: Any, labels: Sequence[Label], points: Sequence[tuple[float, float]], **style: Any) -> None:
    """Write labels where they cover neither each other nor `points`, and no line of the drawing if that can be.

    The first ones have the best places; one for which there is no room is left out. The axes have their final limits
    and scales, and their drawing all that takes room beside them.
    """
    import numpy as np

    axes.figure.draw_without_rendering()
    axes.figure.set_layout_engine("none")  # what is laid out stays where it is, under the labels
    pixels = axes.figure.dpi / 72
    places = axes.transData.transform(np.reshape(points, (-1, 2)))
    markers = np.asarray(_squares(places, _MARKER * pixels))
    lines = _boxes(_along(corners) for corners in _lines(axes))
    written, leaders = _boxes(()), _boxes(())
    for label in labels:
        sheet = _Sheet(axes, label, places, style)
        taken = np.concatenate([markers, written, leaders])
        found = sheet.free_place(np.concatenate([taken, lines]), written) or sheet.free_place(taken, written)
        if found is not None:
            sheet.write(found)
            gap = _GAP * pixels * np.array([-1, -1, 1, 1])
            written = np.concatenate([written, found.box + gap])
            leaders = np.concatenate([leaders, found.leader])


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
    """A place for a label: its offset in points, its box in pixels, and boxes along the line that leads to its point.

    Boxes are arrays of shape (n, 4): left, bottom, right, top.
    """

    offset: tuple[float, float]
    box: Any
    leader: Any


class _Sheet:
    """Where one label could stand."""

    def __init__(self, axes: Any, label: Label, points: Any, style: Mapping[str, Any]) -> None:
        self.axes, self.label, self.points, self.style = axes, label, points, {**style, **label.style}
        probe = axes.text(0, 0, label.text, parse_math=False, **self.style)
        box = probe.get_window_extent()
        probe.remove()
        self.width, self.height = box.width, box.height
        self.at = axes.transData.transform((label.x, label.y))

    def free_place(self, taken: Any, labels: Any) -> _Place | None:
        """The first place that covers nothing of `taken`, boxes of all that should be seen.

        Its line crosses no label; without a line it is nearer to its own point than to any other.
        """
        for offset, is_led in _offsets():
            box = self._box(*offset)
            leader = _along([self.at, _nearest(box[0], *self.at)]) if is_led else _boxes(())
            free = self._is_inside(box[0]) and not _overlap(box, taken) and not _overlap(leader, labels)
            if free and (is_led or self._is_own(box[0])):
                return _Place(offset, box, leader)
        return None

    def _is_own(self, box: Any) -> bool:
        """Whether nobody would take it for the label of another point."""
        own = _distance(box, *self.at)
        return all(_distance(box, *point) >= own for point in self.points)

    def _is_inside(self, box: Any) -> bool:
        outer = self.axes.bbox
        return bool(outer.x0 <= box[0] and box[2] <= outer.x1 and outer.y0 <= box[1] and box[3] <= outer.y1)

    def _box(self, dx: float, dy: float) -> Any:
        import numpy as np

        pixels = self.axes.figure.dpi / 72
        x = self.at[0] + dx * pixels - self.width * (1 - _sign(dx)) / 2
        y = self.at[1] + dy * pixels - self.height * (1 - _sign(dy)) / 2
        return np.array([[x, y, x + self.width, y + self.height]])

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
            arrowprops=line if len(place.leader) else None, **self.style,
        )  # fmt: skip
        text.set_in_layout(False)


def _offsets() -> Iterator[tuple[tuple[float, float], bool]]:
    """Where a label may stand, in points from its point, and whether a line leads there."""
    yield from ((offset, False) for offset in _BESIDE)
    for distance, i in itertools.product(_FURTHER, range(_DIRECTIONS)):
        angle = 2 * math.pi * (i + 0.5) / _DIRECTIONS
        yield (distance * math.cos(angle), distance * math.sin(angle)), True


def _sign(number: float) -> int:
    return (number > 0) - (number < 0)


def _boxes(groups: Any) -> Any:
    """Several arrays of boxes as one, also of none."""
    import numpy as np

    return np.concatenate([np.empty((0, 4)), *groups])


def _overlap(boxes: Any, others: Any) -> bool:
    """Whether any two have a place in common."""
    a, b = boxes[:, None, :], others[None, :, :]
    return bool(((a[..., :2] <= b[..., 2:]) & (b[..., :2] <= a[..., 2:])).all(axis=-1).any())


def _nearest(box: Any, x: float, y: float) -> tuple[float, float]:
    """The point of a box that is nearest to a place."""
    return min(max(x, box[0]), box[2]), min(max(y, box[1]), box[3])


def _distance(box: Any, x: float, y: float) -> float:
    near = _nearest(box, x, y)
    return math.hypot(near[0] - x, near[1] - y)


def _along(corners: Sequence[Any]) -> Any:
    """Small boxes along a line through several places, in pixels."""
    import numpy as np

    parts = [np.linspace(start, end, _ALONG) for start, end in itertools.pairwise(corners)]
    return _squares(np.concatenate(parts), 0.5) if parts else _boxes(())


def _squares(middles: Any, half: float) -> Any:
    """Squares around places, in pixels."""
    import numpy as np

    places = np.asarray(middles).reshape(-1, 2)
    return np.concatenate([places - half, places + half], axis=1)
