"""Result tables for a terminal of 80 columns."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from ggufkit.cli.terminal import words
from ggufkit.core.durations import rough
from ggufkit.core.records import ResultRow
from ggufkit.core.units import size
from ggufkit.pipeline.resources import Plan


def results_table(rows: Sequence[ResultRow]) -> Table:
    """What matters for choosing a file; the rest is in results.csv."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("file", overflow="fold")
    embeds = any(row.cosine_mean is not None for row in rows)
    for title in ("size", "BPW", *(("cosine", "least") if embeds else ("PPL", "KLD", "top")), "pp512", "tg128"):
        table.add_column(title, justify="right", no_wrap=True)
    for row in rows:
        quality = [_number(row.ppl, 3), _number(row.kld_mean, 5), _percent(row.same_top_p)]
        quality = [_number(row.cosine_mean, 5), _number(row.cosine_min, 5)] if embeds else quality
        table.add_row(
            row.file.removesuffix(".gguf"), size(row.size_bytes), f"{row.bpw:.2f}", *quality,
            _number(row.pp_tps, 0), _number(row.tg_tps, 1),
        )  # fmt: skip
    return table


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


def plan_table(plan: Plan) -> Table:
    """What a build would make."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("file", overflow="fold")
    for title in ("size", "BPW", "promised", "RAM"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("substituted", overflow="fold")
    for file in plan.files:
        nominal = "–" if file.nominal_bpw is None else f"{file.nominal_bpw:.2f}"
        swaps = ", ".join(f"{count}× {swap}" for swap, count in file.fallbacks.items())
        most = "≤ " if file.at_most else ""
        bpw = words((f"{most}{file.bpw:.2f}", "yellow" if file.oversized else ""))
        table.add_row(
            file.file.removesuffix(".gguf"),
            f"{most}{size(file.size_bytes)}",
            bpw,
            nominal,
            size(file.ram_bytes),
            swaps,
        )
    return table


def steps_table(plan: Plan) -> Table:
    """What runs when, and on what."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("step", overflow="fold")
    table.add_column("takes", justify="right", no_wrap=True)
    for title in ("runs on", ""):
        table.add_column(title, overflow="fold")
    for number, step in enumerate(plan.steps, 1):
        takes = "–" if step.seconds is None else rough(step.seconds)
        table.add_row(f"{number}. {step.doing}", takes, step.uses, step.note)
    return table
