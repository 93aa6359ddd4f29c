"""Numbers for people."""

from __future__ import annotations


def size(n_bytes: float) -> str:
    """Bytes for people: 13.6 MB, 4.58 GB (decimal units)."""
    value, unit = float(n_bytes), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.3g} {unit}"
