"""Result tables for a terminal of 80 columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from ggufkit.cli.terminal import lines, words
from ggufkit.core import escape
from ggufkit.core.records import ResultRow, further_metrics
from ggufkit.core.units import rough, size
from ggufkit.pipeline.resources import Plan
from ggufkit.report import tasks
from ggufkit.report.choose import amount

if TYPE_CHECKING:
    from ggufkit.report.caches import Further, Line
    from ggufkit.report.decisive import Decisive, Figures
    from ggufkit.report.recommend import Rung
    from ggufkit.report.summary import Summary
    from ggufkit.report.tasks import TaskTable
    from ggufkit.report.unevenness import Texts

_MISSING = "–"


def results_table(rows: Sequence[ResultRow]) -> Table:
    """What matters for choosing a file; the rest is in results.csv."""
    embeds, added = any(row.cosine_mean is not None for row in rows), further_metrics(rows)
    quality_of = ("cosine", "least") if embeds else ("PPL", "KLD", "top")
    table = bare_table("size", "BPW", *quality_of, "pp512", "tg128", *added)
    for row in rows:
        quality = [number(row.ppl, 3), number(row.kld_mean, 5), percent(row.same_top_p)]
        quality = [number(row.cosine_mean, 5), number(row.cosine_min, 5)] if embeds else quality
        table.add_row(
            row.file.removesuffix(".gguf"), size(row.size_bytes), f"{row.bpw:.2f}", *quality,
            number(row.pp_tps, 0), number(row.tg_tps, 1), *(_short(dict(row.further).get(name)) for name in added),
        )  # fmt: skip
    return table


def _short(value: float | None) -> str:
    return _MISSING if value is None else f"{value:.5g}"


def answer(summary: Summary) -> Iterator[RenderableType]:
    """The results, which file to take, what to mind before, the ladder that it stands on, what helped, and what else there
    is in the reports."""
    found = summary.decisive
    yield results_table([e.row for e in summary.entries]) if found is None else decisive_table(found)
    yield ""
    yield words((summary.answer, "bold"))
    yield from (words((warning, "yellow")) for warning in summary.warnings)
    named = [rung for rung in summary.advice.ladder if rung.name]
    if len(named) > 1:
        yield _ladder(named)
    yield from summary.verdict
    yield from summary.further.harmless
    if summary.texts.files:
        chosen = f"What to take is chosen by the first, {summary.texts.names[0]}."
        yield words(("Texts: ", "bold"), (f"{summary.texts.finding} {chosen}", ""))
    if summary.tasks:
        yield words(("Tasks: ", "bold"), (tasks.finding(summary.tasks), ""))
    if found is not None:
        yield "The reports have all other figures, file by file."


def decisive_table(found: Decisive) -> Table:
    """The figures to choose by; errors, and what is told besides, below. Columns that nothing was measured for are left
    out."""
    digits, files = (4 if found.loss == "PPL" else 5), found.files
    columns = [
        ("size", [lines(size(one.entry.row.size_bytes), f"{one.entry.row.bpw:.2f} BPW") for one in files]),
        (
            f"mean {found.loss}" if any(one.worst for one in files) else found.loss,
            [_lost(one, digits) for one in files],
        ),
        ("worst", [_worst(one) for one in files]),
        ("right", [_right(one) for one in files]),
        ("tg128", [with_error(one.entry.row.tg_tps, one.entry.row.tg_tps_stddev, 1) for one in files]),
        ("memory", [lines(_MISSING if one.memory_bytes is None else amount(one.memory_bytes)) for one in files]),
    ]
    shown = [(head, cells) for head, cells in columns if any(cell.plain not in ("", _MISSING) for cell in cells)]
    table = bare_table(*(head for head, _ in shown))
    for column in (column for column in table.columns if column.header == "worst"):  # names of texts may be long
        column.no_wrap, column.overflow = False, "fold"
    for one, *cells in zip(files, *(cells for _, cells in shown), strict=True):
        table.add_row(one.entry.row.file.removesuffix(".gguf"), *cells)
    return table


def _lost(one: Figures, digits: int) -> Text:
    value, error = one.loss or (None, None)
    return with_error(value, error, digits)


def _worst(one: Figures) -> Text:
    if one.worst is not None:
        return lines(number(one.worst.value, 5), one.worst.text)
    return lines(f"{one.alone} alone" if one.alone else _MISSING)


def _right(one: Figures) -> Text:
    right, error = one.right or (None, None)
    said = percent(right) + ("" if error is None else f" ±{error:.1%}")
    return lines(said, *([] if one.flips is None else [f"{one.flips:.1%} flips"]))


def _ladder(rungs: Sequence[Rung]) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    for justify in ("left", "left", "right", "left"):
        table.add_column(justify=justify, overflow="fold")
    for rung in rungs:
        style = "bold" if rung.is_pick else ""
        mark = "→" if rung.is_pick else " "
        table.add_row(
            f"{mark} {rung.name}", rung.entry.label, size(rung.entry.row.size_bytes), rung.words, style=style
        )
    return table


def quality_table(rows: Sequence[ResultRow]) -> Table:
    """What was measured of files, errors below; columns that nothing was measured for are left out. Beside checkpoints,
    whose names tell no type, sizes have their bits per weight, and long titles two lines: a name keeps its room."""
    beside = any(not row.is_gguf for row in rows)
    columns: list[tuple[str | Text, list[Text]]] = [
        ("PPL", [with_error(row.ppl, row.ppl_stderr, 4) for row in rows]),
        (
            lines("ln(PPL", "/base)") if beside else "ln(PPL/base)",
            [with_error(row.ln_ppl_ratio, row.ln_ppl_ratio_stderr, 5) for row in rows],
        ),
        ("KLD", [with_error(row.kld_mean, row.kld_stderr, 5) for row in rows]),
        ("same top", [lines(percent(row.same_top_p)) for row in rows]),
        (
            lines("trans-", "formers"),
            [lines(_MISSING if row.is_gguf else f"{number(row.eval_tps, 1)} t/s") for row in rows],
        ),
    ]
    shown = [(title, cells) for title, cells in columns if any(cell.plain != _MISSING for cell in cells)]
    table = bare_table("size", *(title for title, _ in shown))
    for row, *cells in zip(rows, *(cells for _, cells in shown), strict=True):
        weight = lines(size(row.size_bytes), *([f"{row.bpw:.2f} BPW"] if beside else []))
        table.add_row(row.file.removesuffix(".gguf"), weight, *cells)
    return table


def texts_table(found: Texts) -> Table:
    """KL divergence of each file on each text, the mean, and the worst."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("KLD", overflow="fold")
    for name in (*found.names, "mean"):
        table.add_column(escape.terminal(name), justify="right", overflow="fold")
    table.add_column("worst", overflow="fold")
    for one in found.files:
        losses = [one.on(name) for name in found.names]
        cells = [lines(_MISSING) if x is None else with_error(x.value, x.error or None, 5) for x in losses]
        file, worst = one.file.removesuffix(".gguf"), escape.terminal(one.worst.text)
        table.add_row(file, *cells, number(one.mean, 5), worst)
    return table


def further(found: Further, texts: Texts) -> Iterator[RenderableType]:
    """What was measured on other texts, in other contexts and with other KV caches, where anything was."""
    if texts.files:
        yield ""
        yield texts_table(texts)
    if found.lines:
        yield ""
        yield further_table(found.lines)
        yield from found.sentences


def further_table(measured: Sequence[Line]) -> Table:
    """Each file in each context with each KV cache."""
    table = bare_table("context", "cache", "PPL", "KLD", "more", "same top")
    for line in measured:
        top = None if line.same_top is None else line.same_top[0]
        pairs = [pair or (None, None) for pair in (line.ppl, line.kld, line.added)]
        ppl, kld, more = (with_error(value, error, 5) for value, error in pairs)
        table.add_row(
            line.file.removesuffix(".gguf"), f"{line.n_ctx:,}", line.kv_type, ppl, kld, more, percent(top)
        )
    return table


def tasks_table(table: TaskTable) -> Iterator[RenderableType]:
    """A task's title, and what each file scored in it."""
    yield words((table.title, "bold"))
    shown = bare_table("right", *(tuple(map(str.lower, tasks.BESIDE)) if table.is_compared else ()))
    for file, score in table.rows:
        error = "" if score.acc_stderr is None else f" ±{score.acc_stderr:.1%}"
        beside = [one or _MISSING for one in tasks.beside(score)] if table.is_compared else []
        style = "yellow" if tasks.is_sure(score) else ""
        shown.add_row(file.removesuffix(".gguf"), f"{score.acc:.1%}{error}", *beside, style=style)
    yield shown


def bare_table(*numbers: str | Text) -> Table:
    """A table of files, and of numbers by their titles."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("file", overflow="fold")
    for title in numbers:
        table.add_column(title, justify="right", no_wrap=True)
    return table


def with_error(value: float | None, error: float | None, digits: int, sign: str = "") -> Text:
    """A number, its error below; `sign` is "+" where that is shown of positive ones, too."""
    below = [] if value is None or error is None else [f"±{error:.{digits}f}"]
    return lines(number(value, digits, sign), *below)


def number(value: float | None, digits: int, sign: str = "") -> str:
    """A number with so many digits behind the point; a zero has no minus."""
    return _MISSING if value is None else f"{round(value, digits) + 0.0:{sign}.{digits}f}"


def percent(value: float | None) -> str:
    """A fraction, as people read it."""
    return _MISSING if value is None else f"{value:.1%}"


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
    if (part := plan.mmproj) is not None:
        table.add_row(part.file.removesuffix(".gguf"), size(part.size_bytes), "–", "–", "–", "")
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
