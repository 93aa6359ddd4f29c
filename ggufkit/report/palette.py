"""Colours and shapes: pages, drawings and pictures take them from here.

The colours of series follow those of Okabe and Ito, moved so that each stands out from the page, and so that readers with
any colour vision tell them apart; shapes say the same once more.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields

from ggufkit.core import variants


@dataclass(frozen=True)
class Theme:
    """The colours of a page or drawing, each as CSS has it.

    Args:
        page, card: the grounds.
        ink, muted: text on them.
        grid: thin lines.
        accent, mark: what stands out, as ink and as ground.
        series: one after the other.
    """

    page: str
    card: str
    ink: str
    muted: str
    grid: str
    accent: str
    mark: str
    series: tuple[str, ...]

    @property
    def css(self) -> str:
        """The declarations of CSS variables: `--ink: #1b1f24; … --s1: #0063b5; …`."""
        named = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "series"}
        named |= {f"s{i}": colour for i, colour in enumerate(self.series, 1)}
        return " ".join(f"--{name}: {colour};" for name, colour in named.items())


LIGHT = Theme(
    page="#f6f8fa", card="#ffffff", ink="#1b1f24", muted="#59636e", grid="#d8dee4", accent="#0a5cad", mark="#ddf0ff",
    series=("#0063b5", "#e05a00", "#00a082", "#705000", "#000000", "#a0186f", "#6e7781", "#978300"),
)  # fmt: skip
DARK = Theme(
    page="#0d1117", card="#161b22", ink="#e6edf3", muted="#9da7b3", grid="#363d47", accent="#79b8ff", mark="#12283d",
    series=("#8cc8f0", "#f0602a", "#009e73", "#ecc140", "#ffffff", "#e277c0", "#8c959f", "#c9b458"),
)  # fmt: skip

_MARKERS = "osDv^PXhd"
_ORDER = tuple(variants.BY_NAME)


def numbers(names: Iterable[str]) -> dict[str, int]:
    """A number for each variant: always the same for those of the table, then others by name."""
    others = sorted(set(names) - set(_ORDER))
    return {name: i for i, name in enumerate((*_ORDER, *others))}


def marker(number: int) -> str:
    """The shape of a variant's points, as matplotlib names it."""
    return _MARKERS[number % len(_MARKERS)]
