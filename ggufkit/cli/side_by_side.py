"""Result directories side by side, in a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from ggufkit.cli.terminal import words
from ggufkit.core.units import size
from ggufkit.report.compare import Comparison, Group, Sample

_MISSING = "–"


def tables(found: Comparison) -> Iterator[RenderableType]:
    """A table for each group of comparable samples, then what to keep in mind."""
    for number, group in enumerate(found.quality):
        yield ""
        yield _heading("Quality", number, group)
        yield _quality(group.samples)
    for number, group in enumerate(found.speed):
        yield ""
        yield _heading("Speed", number, group)
        yield _speed(group.samples)
    for remark in found.remarks:
        yield words((remark, "yellow"))


def as_json(found: Comparison) -> dict[str, Any]:
    """Both kinds of groups with their rows and reasons."""
    return {
        kind: [
            {
                "reasons": list(group.reasons),
                "rows": [{"directory": s.origin, **s.entry.row.columns()} for s in group.samples],
            }
            for group in groups
        ]
        for kind, groups in (("quality", found.quality), ("speed", found.speed))
    } | {"remarks": list(found.remarks), "comparable": found.comparable}


def _heading(what: str, number: int, group: Group) -> Text:
    if number == 0:
        return words((what, "bold"))
    return words((f"{what}, apart: {'; '.join(group.reasons)}", "bold yellow"))


def _table(*numbers: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("type")
    table.add_column("directory", overflow="fold")
    for title in numbers:
        table.add_column(title, justify="right", no_wrap=True)
    return table


def _sorted(samples: Sequence[Sample]) -> list[Sample]:
    return sorted(samples, key=lambda s: (-s.entry.row.bpw, s.entry.row.type, s.entry.row.variant, s.origin))


def _quality(samples: Sequence[Sample]) -> Table:
    embeds = any(sample.entry.row.cosine_mean is not None for sample in samples)
    table = _table("size", *(("cosine", "least") if embeds else ("PPL", "KLD", "same top")))
    for sample in _sorted(samples):
        row = sample.entry.row
        top = _MISSING if row.same_top_p is None else f"{row.same_top_p:.2%}"
        quality = [_with(row.ppl, row.ppl_stderr, 4), _with(row.kld_mean, row.kld_stderr, 6), top]
        if embeds:
            quality = [_with(row.cosine_mean, row.cosine_stderr, 5), _with(row.cosine_min, None, 5)]
        table.add_row(sample.entry.label, sample.origin, size(row.size_bytes), *quality)
    return table


def _speed(samples: Sequence[Sample]) -> Table:
    table = _table("pp512", "tg128")
    for sample in _sorted(samples):
        row = sample.entry.row
        table.add_row(
            sample.entry.label, sample.origin, _with(row.pp_tps, row.pp_tps_stddev, 1),
            _with(row.tg_tps, row.tg_tps_stddev, 1),
        )  # fmt: skip
    return table


def _with(value: float | None, error: float | None, digits: int) -> str:
    if value is None:
        return _MISSING
    return f"{value:.{digits}f}" if error is None else f"{value:.{digits}f} ±{error:.{digits}f}"
