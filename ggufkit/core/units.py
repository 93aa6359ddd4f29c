"""Numbers for people, and sizes as people write them."""

from __future__ import annotations

import re

SIZES = {
    "TiB": 1 << 40, "TB": 10**12, "GiB": 1 << 30, "GB": 10**9, "MiB": 1 << 20, "MB": 10**6, "KiB": 1 << 10, "kB": 10**3,
}  # fmt: skip
"""Bytes of each unit of a size, the largest first."""
MOST_BYTES = 1 << 60
"""More than any disk or memory holds."""
MIB, GIB = SIZES["MiB"], SIZES["GiB"]
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*([KMGT]?)(i?)B?", re.IGNORECASE)


def parse_size(text: str) -> int | None:
    """The bytes of `8GiB`, `100MB`, `1.5g`, `1500000`; GB and GiB differ as they should. None for what is no size."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        return None
    binary = 1024 if match[3] else 1000
    n_bytes = float(match[1]) * binary ** ("KMGT".find(match[2].upper()) + 1 if match[2] else 0)
    return int(min(n_bytes, 2 * MOST_BYTES))  # more digits than a number has are infinity


def size(n_bytes: float) -> str:
    """Bytes for people: 13.6 MiB, 4.58 GiB; binary units, as memory and llama.cpp have them."""
    value, unit = float(n_bytes), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value < 1000:
            break
        value, unit = value / 1024, larger
    return f"{value:.0f} {unit}" if unit == "B" or value >= 1000 else f"{value:.3g} {unit}"


def duration(seconds: float) -> str:
    """Seconds for people: 0.4 s, 31.1 s, 21 min 20 s, 3 h 5 min."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes, left = divmod(round(seconds), 60)
    return f"{minutes} min {left} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def rough(seconds: float) -> str:
    """Seconds as exactly as an estimate may tell them: 8 s, 40 s, 3 min, 2 h 10 min."""
    if seconds < 10:
        return f"{max(1, round(seconds))} s"
    if seconds < 55:
        return f"{5 * round(seconds / 5)} s"
    minutes = max(1, round(seconds / 60))
    if minutes < 60:
        return f"{minutes} min"
    hours, left = divmod(10 * round(minutes / 10), 60)
    return f"{hours} h {left} min" if left else f"{hours} h"
