"""Which file to take: the Pareto front of quality against size, and what fits a memory. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ggufkit.llama import quants
from ggufkit.report.data import Entry
from ggufkit.request import ReportOptions

MIB, GIB = 1 << 20, 1 << 30
SMALL_LOSS = 0.05
"""Mean KL divergence, in nats, up to which a smaller file is worth its loss: that of a good 4-bit type."""
_SAME_SIZE = 1.001


@dataclass(frozen=True)
class MemoryBudget:
    """Memory that a file may take when it runs, None for any, and the context in tokens that it runs with."""

    memory_bytes: int | None = None
    n_ctx: int = ReportOptions.fits_ctx


def loss(entry: Entry) -> float | None:
    """What a file loses, to be compared within one report: KL divergence, or how far its embeddings are from the base's;
    none for the base itself; else perplexity. None where nothing was measured."""
    row = entry.row
    if row.kld_mean is not None:
        return row.kld_mean
    if row.cosine_mean is not None:
        return 1.0 - row.cosine_mean
    return 0.0 if entry.is_base else row.ppl


def pareto(entries: Sequence[Entry]) -> list[Entry]:
    """The files that no other beats in both size and quality, the smallest first.

    Sizes that differ by less than a thousandth are equal: metadata alone makes such a difference.
    """
    front: list[Entry] = []
    measured = [(e, value) for e in entries if (value := loss(e)) is not None]
    best = float("inf")
    for entry, value in sorted(measured, key=lambda pair: (pair[0].row.size_bytes, pair[1])):
        if value < best:
            while front and entry.row.size_bytes <= _SAME_SIZE * front[-1].row.size_bytes:
                front.pop()
            front.append(entry)
            best = value
    return front


def best_within(entries: Sequence[Entry], budget: MemoryBudget) -> Entry | None:
    """The best file that runs in the memory; by bits per weight where no quality was measured."""
    fitting = [
        e for e in entries if budget.memory_bytes is None or e.footprint.total(budget.n_ctx) <= budget.memory_bytes
    ]
    if not fitting:
        return None
    measured = [e for e in fitting if loss(e) is not None]
    if measured:
        return min(measured, key=lambda e: (loss(e), e.row.size_bytes))
    return max(fitting, key=lambda e: e.row.bpw)


def first(entries: Sequence[Entry]) -> Entry:
    """The file to try first: the smallest of the front with a small loss, else the one that loses least.

    No floating-point one, unless there are no others.
    """
    quantized = [e for e in entries if not quants.is_float(e.row.type)] or list(entries)
    small = [e for e in pareto(quantized) if e.row.kld_mean is not None and e.row.kld_mean <= SMALL_LOSS]
    return small[0] if small else best_within(quantized, MemoryBudget()) or quantized[0]


def answer(entries: Sequence[Entry], budget: MemoryBudget) -> str:
    """«Which one should I take?», in a sentence or two."""
    if budget.memory_bytes is None:
        return _ladder(entries, budget)
    best = best_within(entries, budget)
    if best is None:
        least = min(e.footprint.total(budget.n_ctx) for e in entries)
        return (
            f"Nothing runs in {amount(budget.memory_bytes)} with a context of {budget.n_ctx:,} tokens: the smallest file "
            f"needs {amount(least)}. Shorten the context, or make a smaller type."
        )
    f = best.footprint
    return (
        f"With {amount(budget.memory_bytes)} of memory, take {best.row.file}{_why(best)}. At a context of {budget.n_ctx:,} "
        f"tokens it needs {amount(f.total(budget.n_ctx))}: {amount(f.weights)} of weights, "
        f"{amount(f.kv(budget.n_ctx))} of KV cache, {amount(f.compute(budget.n_ctx))} of compute buffers."
    )


def _ladder(entries: Sequence[Entry], budget: MemoryBudget) -> str:
    """From which memory on each file of the Pareto front is the one to take."""
    front = pareto(entries) or sorted(entries, key=lambda e: e.row.size_bytes)
    steps = [f"from {amount(e.footprint.total(budget.n_ctx))} up, {e.row.file}{_why(e)}" for e in reversed(front)]
    return f"The best file for your memory, at a context of {budget.n_ctx:,} tokens: {'; '.join(steps)}."


def _why(entry: Entry) -> str:
    row = entry.row
    if entry.is_base:
        return " (the base itself)"
    if row.cosine_mean is not None:
        return f" (cosine similarity {row.cosine_mean:.5f})"
    if row.kld_mean is None:
        return f" (PPL {row.ppl:.4f})" if row.ppl is not None else ""
    top = "" if row.same_top_p is None else f", same top token {row.same_top_p:.1%}"
    return f" (KLD {row.kld_mean:.4g}{top})"


def amount(n_bytes: float) -> str:
    """Bytes of memory for people, in binary units as memory is sold: 430 MiB, 5.27 GiB."""
    return f"{n_bytes / GIB:.2f} GiB" if n_bytes >= GIB else f"{n_bytes / MIB:.0f} MiB"
