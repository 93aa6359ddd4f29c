"""`report.html`: one file that opens offline, with its style, its drawings and its few lines of script inside."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, partial

from jinja2 import Environment, PackageLoader, StrictUndefined

from ggufkit.core import escape, units
from ggufkit.core.records import further_metrics
from ggufkit.llama import quants
from ggufkit.report import composition, maps, palette, plots, tasks
from ggufkit.report.choose import amount
from ggufkit.report.data import Entry
from ggufkit.report.decisive import Decisive, Figures
from ggufkit.report.markdown import MISSING, number, percent
from ggufkit.report.summary import Summary


@dataclass(frozen=True)
class Cell:
    """A table cell: what is shown, the number that it is sorted by (None sorts last), its error, and what else is small."""

    text: str
    key: float | str | None
    error: str = ""
    beside: str = ""


@dataclass(frozen=True)
class Figure:
    """A drawing with its title and what it says, and a wider one for where there is room. Its names are escaped: the
    page takes it as it is."""

    title: str
    caption: str
    svg: str
    wide: str = ""


COLUMNS = (
    ("file", "File"), ("size", "Size"), ("bpw", "BPW"), ("ppl", "Perplexity"),
    ("ratio", "ln(PPL/base)"), ("kld", "KLD"), ("p99", "KLD 99 %"), ("top", "Same top"),
    ("cosine", "Cosine"), ("least", "Least cosine"),
    ("pp", "pp512"), ("tg", "tg128"), ("hf", "transformers"), ("memory", "Memory"),
)  # fmt: skip


_DIGITS = {"KLD": 6, "Cosine": 5, "PPL": 4}
_LOSS_KEYS = {"KLD": "kld", "Cosine": "cosine", "PPL": "ppl"}

_KEY = "further "
"""What the keys of columns begin with that packages add."""


def render_html(summary: Summary) -> str:
    """The whole report."""
    added = further_metrics(entry.row for entry in summary.entries)
    table = [(e, _cells(e, summary.budget.n_ctx) | _further(e, added)) for e in summary.entries]
    named = [*COLUMNS, *((_KEY + name, name.replace("_", " ")) for name in added)]
    columns = [(key, head) for key, head in named if any(cells[key].text != MISSING for _, cells in table)]
    first = _decisive_columns(summary.decisive)
    rest = [(key, head) for key, head in columns if key not in {"bpw", *dict(first)}] if first else []
    holds = composition.held(summary.entries)
    types = {part.type for one in holds for part in one.parts}
    legend = maps.legend(summary.recipes, types)
    template = environment().get_template("report.html.j2")
    return template.render(
        s=summary,
        columns=first or columns,
        rows=_rows(_decisive_cells(summary.decisive) if summary.decisive else table, first or columns),
        rest=rest,
        rest_rows=_rows(table, rest),
        light=palette.LIGHT,
        dark=palette.DARK,
        quality=_quality(summary),
        figures=_figures(summary),
        timeline=_timeline(summary),
        holds=holds,
        types_held=types,
        types_mapped=maps.labels(summary.recipes),
        legend=legend,
        numbers={swatch.label: i for i, swatch in enumerate(legend)},
        recipes=[maps.shown(told, legend) for told in summary.recipes],
        choices=_choices(summary),
        tasks_explained=tasks.EXPLAINED,
        tasks_finding=tasks.finding,
        tasks_beside=tasks.BESIDE,
        missing=MISSING,
        number=number,
        percent=percent,
        size=units.size,
        amount=amount,
    )


@cache
def environment() -> Environment:
    """Where templates of pages come from: what stands in them is escaped, and nothing in it acts or hides."""
    made = Environment(
        loader=PackageLoader("ggufkit.report"), autoescape=True, undefined=StrictUndefined, finalize=_visible
    )
    made.filters |= {"share": "{:.1%}".format, "beside": tasks.beside}
    return made


def _visible(value: object) -> object:
    """Text whose invisible characters show; what is markup already stays."""
    return (
        escape.terminal(value, lines=True) if isinstance(value, str) and not hasattr(value, "__html__") else value
    )


def _rows(
    table: Sequence[tuple[Entry, dict[str, Cell]]], columns: Sequence[tuple[str, str]]
) -> list[tuple[Entry, list[Cell]]]:
    return [(entry, [cells[key] for key, _ in columns]) for entry, cells in table]


def _decisive_columns(found: Decisive | None) -> list[tuple[str, str]]:
    """Keys and heads of the table to choose by, [] where there is none; keys are those of the columns that it stands for."""
    if found is None:
        return []
    heads = [("file", "File"), ("size", "Size"), (_LOSS_KEYS[found.loss], found.loss), ("right", "Right"),
             ("tg", "tg128"), ("memory", "Memory")]  # fmt: skip
    cells = [row for _, row in _decisive_cells(found)]
    return [(key, head) for key, head in heads if any(row[key].text != MISSING for row in cells)]


def _decisive_cells(found: Decisive) -> list[tuple[Entry, dict[str, Cell]]]:
    """A file's cells in the table to choose by."""
    return [(one.entry, _of_figures(one, found.loss)) for one in found.files]


def _of_figures(one: Figures, loss: str) -> dict[str, Cell]:
    row, memory = one.entry.row, one.memory_bytes
    value, error = one.loss or (None, None)
    lost = _measurement(value, error, _DIGITS[loss])
    right = _percentage(*(one.right or (None, None)))
    flips = "" if one.flips is None else f"{one.flips:.1%} flips"
    return {
        "file": Cell(one.entry.label, row.file.lower()),
        "size": Cell(units.size(row.size_bytes), row.size_bytes, f"{row.bpw:.2f} BPW"),
        _LOSS_KEYS[loss]: replace(lost, beside=_on_texts(one)),
        "right": replace(right, beside=flips),
        "tg": _measurement(row.tg_tps, row.tg_tps_stddev, 1),
        "memory": Cell(MISSING, None) if memory is None else Cell(amount(memory), memory),
    }


def _on_texts(one: Figures) -> str:
    if one.worst is not None:
        return f"worst {one.worst.value:.6f}, {one.worst.text}"
    return one.alone and f"{one.alone} alone"


def _cells(entry: Entry, n_ctx: int) -> dict[str, Cell]:
    """A file's cells by the column's key."""
    row, total = entry.row, entry.footprint.total(n_ctx)
    return {
        "file": Cell(entry.label, row.file.lower()),
        "size": Cell(units.size(row.size_bytes), row.size_bytes),
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
        "memory": Cell(amount(total), total) if row.is_gguf else Cell(MISSING, None),
        "hf": _measurement(None if row.is_gguf else row.eval_tps, None, 1),
    }


def _further(entry: Entry, names: Sequence[str]) -> dict[str, Cell]:
    """What metrics that packages add measured."""
    found = dict(entry.row.further)
    return {_KEY + name: _measurement(found.get(name), found.get(f"{name}_stderr"), 4) for name in names}


def _measurement(value: float | None, error: float | None, digits: int) -> Cell:
    if value is None:
        return Cell(MISSING, None)
    return Cell(f"{value:,.{digits}f}", value, "" if error is None else f"± {error:,.{digits}f}")


def _percentage(value: float | None, error: float | None) -> Cell:
    if value is None:
        return Cell(MISSING, None)
    return Cell(f"{value:.2%}", value, "" if error is None else f"± {error:.2%}")


def _quality(summary: Summary) -> Figure | None:
    """The drawing that says most, for which there is the whole width."""
    both = [
        plots.quality_by_size(summary.quality, summary.known, summary.taken, is_wide=is_wide)
        for is_wide in (False, True)
    ]
    return _figure("Quality against size", _about_quality(summary), *both)


def _figures(summary: Summary) -> list[Figure]:
    """Two drawings of one height, each for half a page; one alone is for a whole one as well."""
    compared, height = (
        [e for e in summary.speed if e in summary.quality],
        plots.percentiles_height(summary.quality),
    )
    by_speed = partial(plots.quality_by_speed, compared, summary.taken, height)
    by_spread = partial(plots.percentiles, summary.quality)
    drawn = [
        (drawing, _figure(title, caption, drawing()))
        for title, caption, drawing in (
            ("Quality against speed", "Lower and further right is better.", by_speed),
            ("How the loss is spread", _about_spread(summary), by_spread),
        )
    ]
    found = [(drawing, figure) for drawing, figure in drawn if figure is not None]
    if len(found) == 1:
        return [replace(figure, wide=drawing(is_wide=True) or "") for drawing, figure in found]
    return [figure for _, figure in found]


def _timeline(summary: Summary) -> Figure | None:
    both = [plots.timeline(summary.spans, is_wide=is_wide) for is_wide in (False, True)]
    return _figure(
        "Where the time went",
        "The steps of the last build by what they ran on; those that overlap ran at once.",
        *both,
    )


def _figure(title: str, caption: str, svg: str | None, wide: str | None = None) -> Figure | None:
    return Figure(title, caption, svg, wide or "") if svg is not None else None


def _about_quality(summary: Summary) -> str:
    said = "Lower and further left is better; the error bars are one standard error."
    lines = "Lines are Pareto fronts: of recipes drawn through, of presets of the same variant dotted."
    front = (
        "The line is the Pareto front: files, named, that are closer to the base than every smaller one by more than "
        "the error."
    )
    floats = any(quants.is_float(e.row.type) and not e.is_base for e in summary.quality)
    left_out = ["Floating-point files are left out."] if floats else []
    return " ".join([said, lines if summary.recipes else front, *left_out])


def _about_spread(summary: Summary) -> str:
    said = "Most tokens hardly change; the worst ones tell types apart."
    is_all = len(plots.spread(summary.quality)) == sum(e.percentiles.get(0.5, 0) > 0 for e in summary.quality)
    return said if is_all else f"{said} Files of the Pareto front."


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
