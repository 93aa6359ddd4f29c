"""Files of one model beside each other, in a terminal of 80 columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from ggufkit.cli.tables import bare_table, number, percent, tasks_table, with_error
from ggufkit.cli.terminal import words
from ggufkit.core.units import size
from ggufkit.measure.paired import Contrast
from ggufkit.report.rivals import Rival, Rivals

_AT_ONCE = 3
"""Columns of types that have room beside each other."""


def parts(found: Rivals) -> Iterator[RenderableType]:
    """What was measured, the types of each kind of tensor, and how they differ from the first file's, in words."""
    yield _measured(found)
    yield from _warned(found)
    for table in found.tasks:
        yield ""
        yield from tasks_table(table)
    for start in range(0, len(found.files), _AT_ONCE):
        yield ""
        yield _types(found.files[start : start + _AT_ONCE])
    first, *others = found.files
    for rival in others:
        yield ""
        yield words((f"{rival.entry.label} beside {first.entry.label}:", "bold"))
        for said in rival.differs or ("the same types",):
            yield words(f"  {said}")


def _warned(found: Rivals) -> Iterator[Text]:
    """Which errors are not those of differences."""
    apart = [rival.entry.label for rival in found.files if rival.delta is not None and not rival.delta.is_paired]
    if apart:
        said = f"Δ of {', '.join(apart)}: its error takes both files' errors as independent."
        yield words((said, "yellow"))


def _measured(found: Rivals) -> Table:
    table = bare_table("size", "BPW", "KLD", "Δ", "same top")
    for rival in found.all:
        row = rival.row
        table.add_row(
            row.file.removesuffix(".gguf"), size(row.size_bytes), number(row.bpw, 2),
            with_error(row.kld_mean, row.kld_stderr, 5), _difference(rival.delta),
            percent(row.same_top_p),
        )  # fmt: skip
    return table


def _difference(delta: Contrast | None) -> Text:
    return with_error(None, None, 5) if delta is None else with_error(delta.value, delta.error, 5, sign="+")


def _types(files: Sequence[Rival]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("types", no_wrap=True)
    for rival in files:
        table.add_column(rival.entry.label, overflow="fold")
    by_kind = [dict(rival.kinds) for rival in files]
    for kind in dict.fromkeys(kind for kinds in by_kind for kind in kinds):
        table.add_row(kind, *(kinds.get(kind, "–") for kinds in by_kind))
    return table
