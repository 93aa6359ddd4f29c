"""What a person sees of a sweep before it is begun."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import RenderableType
from rich.table import Table

from ggufkit.cli.terminal import words
from ggufkit.core import durations, escape
from ggufkit.core.durations import Estimate
from ggufkit.core.progress import grouped
from ggufkit.core.units import size
from ggufkit.sweep.foreseen import Foreseen, Outlook


def shown(outlook: Outlook) -> Iterator[RenderableType]:
    """A row for each build, the sums, and what is not known."""
    known = [each for each in outlook.cells if not each.message]
    if known:
        yield _table(known, outlook.total, outlook.backend)
        yield from _sums(outlook)
    yield from (words((warning, "yellow")) for warning in grouped(w for each in known for w in each.warnings))
    unknown = [each for each in outlook.cells if each.message]
    if unknown and known:
        yield words(
            (f"Not counted above is what nothing is known of, {len(unknown)} of {len(outlook.cells)}:", "yellow")
        )
    for each in unknown:
        yield words((f"{each.cell}: {each.message} {each.hint}", "red"))


def _table(known: list[Foreseen], total: Foreseen, backend: str) -> Table:
    on_gpu = backend not in ("", "cpu")
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("build", overflow="fold")
    for title in (
        "jobs",
        "there",
        "files",
        "download",
        "results",
        "disk",
        *(["GPU h"] if on_gpu else []),
        "CPU h",
    ):
        table.add_column(title, justify="right", no_wrap=True)
    for each in [*known, *([total] if known[1:] else [])]:
        times = [each.gpu_s, each.cpu_s] if on_gpu else [each.cpu_s]
        table.add_row(
            escape.terminal(each.cell or "all"), f"{each.n_jobs:,}", f"{each.n_there:,}", f"{each.n_files:,}",
            size(each.download_bytes) if each.download_bytes else "–", size(each.result_bytes), size(each.disk_bytes),
            *(f"{seconds / 3600:,.2f}" if seconds else "–" for seconds in times),
        )  # fmt: skip
    return table


def _sums(outlook: Outlook) -> Iterator[str]:
    total = outlook.total
    yield f"{total.n_jobs:,} jobs, of which {total.n_there:,} have their results already; {total.n_files:,} GGUFs."
    yield f"Download: {size(total.download_bytes)}. Disk: {size(total.disk_bytes)} of {size(outlook.disk_free)} free."
    whole = durations.words(Estimate(total.gpu_s + total.cpu_s, total.factor))
    yield f"Time: {whole}, on one worker like this machine ({outlook.backend}), without what is downloaded."
