"""What a file is chosen for: the memory that there is. Which one it is, `recommend` says."""

from __future__ import annotations

from dataclasses import dataclass

from ggufkit.core.records import F16
from ggufkit.request import ReportOptions

MIB, GIB = 1 << 20, 1 << 30


@dataclass(frozen=True)
class MemoryBudget:
    """Memory that a file may take when it runs, None for any, and the context in tokens, and the type of its KV cache, that
    it runs with."""

    memory_bytes: int | None = None
    n_ctx: int = ReportOptions.fits_ctx
    kv_type: str = F16

    @classmethod
    def of(cls, asked: ReportOptions) -> MemoryBudget:
        """What a build was asked for."""
        return cls(asked.fits, asked.fits_ctx, asked.fits_kv)

    @property
    def context(self) -> str:
        """The context in words."""
        return context(self.n_ctx, self.kv_type)


def context(n_ctx: int, kv_type: str = F16) -> str:
    """A context in words: "4,096 tokens", "4,096 tokens in a q8_0 cache"."""
    return f"{n_ctx:,} tokens" if kv_type == F16 else f"{n_ctx:,} tokens in a {kv_type} cache"


def amount(n_bytes: float) -> str:
    """Bytes of memory for people, in binary units as memory is sold: 430 MiB, 5.27 GiB."""
    return f"{n_bytes / GIB:.2f} GiB" if n_bytes >= GIB else f"{n_bytes / MIB:.0f} MiB"
