"""A table and the plot of quality against size, for a cell of a notebook: in its own colours, light or dark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from ggufkit.core import escape as visible
from ggufkit.core import units
from ggufkit.core.records import ResultRow
from ggufkit.report import plots
from ggufkit.report.data import load_entries
from ggufkit.report.markdown import MISSING
from ggufkit.report.palette import DARK, LIGHT
from ggufkit.report.tables import COLUMNS, frame

_DIGITS: Mapping[str, tuple[str, int]] = {
    "bpw": ("BPW", 2), "ppl": ("PPL", 4), "kld_mean": ("KLD", 6), "same_top_p": ("same top", 4),
    "cosine_mean": ("cosine", 5), "pp_tps": ("pp512", 1), "tg_tps": ("tg128", 1),
}  # fmt: skip
"""Columns that are shown where they are known, what they are called, and their digits."""


_COLOURS = (
    f".ggufkit {{ {LIGHT.css} }} @media (prefers-color-scheme: dark) {{ .ggufkit {{ {DARK.css} }} }}"
    " .ggufkit svg { background: var(--card); }"
)


def render(rows: Sequence[ResultRow], root: Path) -> str:
    """The table, and the plot where at least two files were measured alike."""
    drawn = plots.quality_by_size(load_entries(rows, root)) if _are_in(rows, root) else None
    plot = f'<div style="max-width: 34rem">{drawn}</div>' if drawn else ""
    return f"<style>{_COLOURS}</style><div class='ggufkit'>{table(frame(rows))}{plot}</div>"


def _are_in(rows: Sequence[ResultRow], root: Path) -> bool:
    return len(rows) > 1 and all((root / row.file).is_file() for row in rows if row.is_gguf)


def table(rows: pd.DataFrame) -> str:
    """The columns that matter for choosing a file."""
    shown = pd.DataFrame({name: rows[name] for name in ("directory", "file") if name in rows}).map(
        visible.terminal
    )
    shown["size"] = rows["size_bytes"].map(units.size)
    for name, (title, digits) in _DIGITS.items():
        if rows[name].notna().any():
            shown[title] = rows[name].map(lambda value, digits=digits: _number(value, digits))
    for name in (str(name) for name in rows if name not in (*COLUMNS, *shown, "directory")):
        shown[name] = rows[name].map(lambda value: MISSING if pd.isna(value) else f"{value:.5g}")
    return str(shown.to_html(index=False, border=0, escape=True))


def _number(value: float, digits: int) -> str:
    return MISSING if pd.isna(value) else f"{value:,.{digits}f}"
