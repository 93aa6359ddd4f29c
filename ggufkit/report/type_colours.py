"""Colours of tensor types: one scale of bits per weight, which readers with any colour vision can order."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ggufkit.report.data import bits

_FEWEST, _MOST = 1.5, 8.5
"""Bits per weight at the ends of the scale; what has more is no quantization, and is hatched."""
_SCALE = "viridis"
_BRIGHT = 0.2
"""Relative luminance from which black is easier to read on a colour than white."""


@dataclass(frozen=True)
class Shade:
    """A colour as CSS has it, and the ink that can be read on it."""

    background: str
    ink: str


@dataclass(frozen=True)
class Swatch:
    """How a cell's label is shown.

    Args:
        label: a type, or several that share a cell: "Q4_K", "Q4_K, Q6_K".
        bpw: bits per weight, the mean of several; 0 where it is not known.
        light, dark: on a light and on a dark page, where more bits stand out more; None for what is off the scale.
    """

    label: str
    bpw: float
    light: Shade | None
    dark: Shade | None


def swatches(labels: Iterable[str]) -> tuple[Swatch, ...]:
    """A swatch for each label, the fewest bits first."""
    found = [_swatch(label) for label in dict.fromkeys(labels)]
    return tuple(sorted(found, key=lambda swatch: (swatch.bpw, swatch.label)))


def _swatch(label: str) -> Swatch:
    known = [bits(name) for name in label.split(", ")]
    bpw = sum(known) / len(known) if all(known) else 0.0
    if not 0 < bpw <= _MOST:
        return Swatch(label, bpw, None, None)
    share = max(bpw - _FEWEST, 0.0) / (_MOST - _FEWEST)
    return Swatch(label, bpw, _shade(1 - share), _shade(share))


def _shade(place: float) -> Shade:
    """The colour at a place of the scale between 0, its darkest end, and 1."""
    import matplotlib as mpl
    from matplotlib.colors import to_hex

    colour = mpl.colormaps[_SCALE](place)
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour[:3]]
    luminance = sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
    return Shade(to_hex(colour), "#000000" if luminance > _BRIGHT else "#ffffff")
