"""`report.html`: one file that opens offline, with its style, its drawings and its few lines of script inside."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined

from ggufkit.core import escape
from ggufkit.report import maps, plots
from ggufkit.report.choose import amount
from ggufkit.report.data import Entry
from ggufkit.report.markdown import MISSING
from ggufkit.report.summary import Summary


@dataclass(frozen=True)
class Cell:
    """A table cell: what is shown, the number that it is sorted by (None sorts last), and its error."""

    text: str
    key: float | str | None
    error: str = ""


@dataclass(frozen=True)
class Figure:
    """A drawing with its title and what it says. Its names are escaped: the page takes it as it is."""

    title: str
    caption: str
    svg: str


COLUMNS = (
    ("file", "File"), ("size", "Size"), ("bpw", "BPW"), ("ppl", "Perplexity"),
    ("ratio", "ln(PPL/base)"), ("kld", "KLD"), ("p99", "KLD 99 %"), ("top", "Same top"),
    ("cosine", "Cosine"), ("least", "Least cosine"),
    ("pp", "pp512"), ("tg", "tg128"), ("memory", "Memory"),
)  # fmt: skip


def render_html(summary: Summary) -> str:
    """The whole report."""
    table = [(entry, _cells(entry, summary.budget.n_ctx)) for entry in summary.entries]
    columns = [(key, head) for key, head in COLUMNS if any(cells[key].text != MISSING for _, cells in table)]
    rows = [(entry, [cells[key] for key, _ in columns]) for entry, cells in table]
    legend = maps.legend(summary.recipes)
    template = _environment().get_template("report.html.j2")
    return template.render(
        s=summary,
        columns=columns,
        rows=rows,
        figures=_figures(summary),
        legend=legend,
        recipes=[maps.shown(told, legend) for told in summary.recipes],
        choices=_choices(summary),
        missing=MISSING,
    )


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("ggufkit.report"), autoescape=True, undefined=StrictUndefined, finalize=_visible
    )


def _visible(value: object) -> object:
    """Text whose invisible characters show; what is markup already stays."""
    return (
        escape.terminal(value, lines=True) if isinstance(value, str) and not hasattr(value, "__html__") else value
    )


def _cells(entry: Entry, n_ctx: int) -> dict[str, Cell]:
    """A file's cells by the column's key."""
    row, total = entry.row, entry.footprint.total(n_ctx)
    return {
        "file": Cell(entry.label, row.file.lower()),
        "size": Cell(f"{row.size_bytes / 1e6:,.1f} MB", row.size_bytes),
        "bpw": Cell(f"{row.bpw:.2f}", row.bpw),
        "ppl": _measurement(row.ppl, row.ppl_stderr, 4),
        "ratio": _measurement(row.ln_ppl_ratio, row.ln_ppl_ratio_stderr, 5),
        "kld": _measurement(row.kld_mean, row.kld_stderr, 6),
        "p99": _measurement(row.kld_p99, None, 4),
        "top": _percentage(row.same_top_p, row.same_top_p_stderr),
        "cosine": _measurement(row.cosine_mean, row.cosine_stderr, 5),
        "least": _measurement(row.cosine_min, None, 5),
        "pp": _measurement(row.pp_tps, row.pp_tps_stddev, 1),
        "tg": _measurement(row.tg_tps, row.tg_tps_stddev, 1),
        "memory": Cell(amount(total), total),
    }


def _measurement(value: float | None, error: float | None, digits: int) -> Cell:
    if value is None:
        return Cell(MISSING, None)
    return Cell(f"{value:,.{digits}f}", value, "" if error is None else f"± {error:,.{digits}f}")


def _percentage(value: float | None, error: float | None) -> Cell:
    if value is None:
        return Cell(MISSING, None)
    return Cell(f"{value:.2%}", value, "" if error is None else f"± {error:.2%}")


def _figures(summary: Summary) -> list[Figure]:
    drawn = (
        ("Quality against size", _about_quality(summary),
         plots.quality_by_size(summary.quality, summary.known)),
        ("Quality against speed", "Lower and further right is better.",
         plots.quality_by_speed([e for e in summary.speed if e in summary.quality])),
        ("What each file really holds", "Tensors keep another type where the named one does not suit them.",
         plots.composition(summary.entries)),
        ("How the loss is spread", "Most tokens hardly change; the worst ones tell types apart.",
         plots.percentiles(summary.quality)),
        ("Where the time went", "The steps of the last build, from the start of the first.", plots.timeline(summary.spans)),
    )  # fmt: skip
    return [Figure(title, caption, svg) for title, caption, svg in drawn if svg is not None]


def _about_quality(summary: Summary) -> str:
    said = "Lower and further left is better; the error bars are one standard error."
    lines = " Lines are Pareto fronts: of recipes drawn through, of presets of the same variant dotted."
    return said + lines if summary.recipes else said


def _choices(summary: Summary) -> str:
    """What the memory calculator needs, as JSON that a script element can hold as it is: the first that fits is taken."""
    rows = [
        {
            "file": e.row.file, "words": summary.advice.words.get(e.row.file, ""), "weights": e.footprint.weights,
            "kv": e.footprint.kv_per_token, "fixed": e.footprint.compute_fixed,
            "perToken": e.footprint.compute_per_token,
        }
        for e in summary.advice.preference
    ]  # fmt: skip
    # Inside a script element HTML ends only at "</": no name may contain it.
    return json.dumps(rows).replace("<", "\\u003c")
