"""What a file is chosen for: the memory that there is. Which one it is, `recommend` says."""

from __future__ import annotations

from dataclasses import dataclass

from ggufkit.request import ReportOptions

MIB, GIB = 1 << 20, 1 << 30


@dataclass(frozen=True)
class MemoryBudget:
    """Memory that a file may take when it runs, None for any, and the context in tokens that it runs with."""

    memory_bytes: int | None = None
    n_ctx: int = ReportOptions.fits_ctx


def amount(n_bytes: float) -> str:
    """Bytes of memory for people, in binary units as memory is sold: 430 MiB, 5.27 GiB."""
    return f"{n_bytes / GIB:.2f} GiB" if n_bytes >= GIB else f"{n_bytes / MIB:.0f} MiB"
