"""`report.md`: the results as Hugging Face flavoured Markdown, to stand in a model card as they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tabulate import tabulate

from ggufkit.core.escape import markdown, markdown_block, markdown_code, markdown_html, terminal
from ggufkit.core.records import further_metrics
from ggufkit.core.units import MIB, size
from ggufkit.report import tasks
from ggufkit.report.choose import amount
from ggufkit.report.data import Entry
from ggufkit.report.decisive import Decisive, Figures
from ggufkit.report.recipes import Told
from ggufkit.report.recommend import Rung
from ggufkit.report.summary import Summary
from ggufkit.report.tasks import TaskTable
from ggufkit.report.unevenness import TextLoss

MISSING = "–"
_SPEED = "tg128 (t/s)"
_Column = tuple[str, list[str], bool]
"""A head, its cells, and whether it stands there though nothing was measured."""


def render_markdown(summary: Summary) -> str:
    """The whole report. What comes from files is escaped."""
    parts = [
        f"# {markdown(summary.name)}",
        answer(summary),
        ladder_table(summary.advice.ladder),
        measured(summary),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def answer(summary: Summary) -> str:
    """The file to take, in a line, and what to mind before; "" where there is none to choose from."""
    taken = summary.answer and f"**Which one should I take?** {markdown(summary.answer)}"
    mind = "\n".join(f"- **Mind:** {markdown(warning)}" for warning in summary.warnings)
    return "\n\n".join(part for part in (taken, mind) if part)


def measured(summary: Summary) -> str:
    """What the report says behind its answer: what helped, the results, and how they came about."""
    parts = [
        _verdict(summary),
        results_table(summary) if summary.decisive is None else decisive_table(summary.decisive, summary),
        _notes(summary),
        _rest(summary),
        texts_section(summary),
        _tasks(summary),
        caches_section(summary),
        "## What each type really holds",
        composition_table(summary.entries),
        *(_recipe(told) for told in summary.recipes),
        "## How it was measured",
        "\n".join(f"- {markdown(label)}: {markdown(value)}" for label, value in summary.facts),
        "## Reproduce",
        markdown_block(summary.command, "sh"),
        _commands(summary.entries),
        _hashes(summary.entries),
    ]
    return "\n\n".join(part for part in parts if part)


def file_name(entry: Entry) -> str:
    """A file's name in a cell of a table."""
    return markdown_code(entry.row.file, cell=True)


def ladder_table(ladder: Sequence[Rung], show: Callable[[Entry], str] = file_name) -> str:
    """From the smallest file that speaks well to the base; "" where nothing was measured, or there is but one.

    Args:
        show: a file as it stands in a cell.
    """
    named = [rung for rung in ladder if rung.name]
    if len(named) < 2:
        return ""
    rows = [
        [f"**{rung.name}**" if rung.is_pick else rung.name, show(rung.entry),
         size(rung.entry.row.size_bytes), amount(rung.memory_bytes), markdown(rung.loss), rung.words]
        for rung in named
    ]  # fmt: skip
    heads = ["", "File", "Size", "Memory", "Against the base", "In words"]
    align = ["left", "left", "right", "right", "left", "left"]
    return tabulate(rows, heads, tablefmt="github", disable_numparse=True, colalign=align)


def _verdict(summary: Summary) -> str:
    """What the variants are worth: in short, and type by type behind it."""
    if not summary.verdicts:
        return ""
    short = "\n".join(f"- {markdown(line)}" for line in summary.verdict)
    each = "\n".join(f"- {markdown(v.sentence)}" for v in summary.verdicts)
    return f"{short}\n\n<details><summary>Type by type</summary>\n\n{each}\n\n</details>"


def results_table(summary: Summary) -> str:
    """One line for each file; columns that nothing was measured for are left out."""
    return _table(_columns(summary))


def decisive_table(found: Decisive, summary: Summary) -> str:
    """The figures to choose by, one line for each file; what was not measured of any is left out."""
    files, digits = found.files, {"KLD": 6, "Cosine": 5, "PPL": 4}[found.loss]
    rows = [one.entry.row for one in files]
    return _table([
        ("File", [_file(one.entry, summary) for one in files], True),
        ("Size (MiB)", [f"{row.size_bytes / MIB:,.1f}" for row in rows], True),
        ("Bits/weight", [f"{row.bpw:.2f}" for row in rows], True),
        (_mean_of(found), [number(one.loss, digits) for one in files], False),
        ("Worst text", [_worst(one) for one in files], False),
        ("Right", [percent(*(one.right or (None, None))) for one in files], False),
        ("Flips", [percent(one.flips, None) for one in files], False),
        (_SPEED, [with_error(row.tg_tps, row.tg_tps_stddev, 1) for row in rows], False),
        ("Memory", [MISSING if one.memory_bytes is None else amount(one.memory_bytes) for one in files], False),
    ])  # fmt: skip


def _mean_of(found: Decisive) -> str:
    return f"Mean {found.loss}" if any(one.worst for one in found.files) else found.loss


def _worst(one: Figures) -> str:
    if one.worst is not None:
        return f"{one.worst.value:.6f}, {markdown(one.worst.text)}"
    return f"{markdown(one.alone)} alone" if one.alone else MISSING


def _rest(summary: Summary) -> str:
    """The other columns of the table of results, behind the table to choose by."""
    if summary.decisive is None:
        return ""
    told = {"Size (MiB)", "Bits/weight", summary.decisive.loss, _SPEED}
    columns = [
        (head, cells, always) for head, cells, always in _columns(summary)
        if head not in told and (always or any(cell != MISSING for cell in cells))
    ]  # fmt: skip
    heads = ", ".join(head for head, *_ in columns[1:])
    return _fold(f"{heads}. {summary.decisive.rest}", _table(columns)) if heads else ""


def _fold(line: str, inside: str) -> str:
    return f"<details><summary>{markdown_html(line)}</summary>\n\n{inside}\n\n</details>"


def _columns(summary: Summary) -> list[_Column]:
    return [
        ("File", [_file(e, summary) for e in summary.entries], True),
        ("Size (MiB)", [f"{e.row.size_bytes / MIB:,.1f}" for e in summary.entries], True),
        ("Bits/weight", [f"{e.row.bpw:.2f}" for e in summary.entries], True),
        ("PPL", [with_error(e.row.ppl, e.row.ppl_stderr, 4) for e in summary.entries], False),
        ("ln(PPL/base)", [with_error(e.row.ln_ppl_ratio, e.row.ln_ppl_ratio_stderr, 5) for e in summary.entries],
         False),
        ("KLD", [with_error(e.row.kld_mean, e.row.kld_stderr, 6) for e in summary.entries], False),
        ("KLD 99 %", [with_error(e.row.kld_p99, None, 4) for e in summary.entries], False),
        ("Same top", [percent(e.row.same_top_p, e.row.same_top_p_stderr) for e in summary.entries], False),
        ("Cosine", [with_error(e.row.cosine_mean, e.row.cosine_stderr, 5) for e in summary.entries], False),
        ("Least cosine", [with_error(e.row.cosine_min, None, 5) for e in summary.entries], False),
        ("pp512 (t/s)", [with_error(e.row.pp_tps, e.row.pp_tps_stddev, 1) for e in summary.entries], False),
        (_SPEED, [with_error(e.row.tg_tps, e.row.tg_tps_stddev, 1) for e in summary.entries], False),
        ("transformers (t/s)",
         [with_error(None if e.row.is_gguf else e.row.eval_tps, None, 1) for e in summary.entries], False),
        *(_further(name, summary.entries) for name in further_metrics(e.row for e in summary.entries)),
    ]  # fmt: skip


def _table(columns: Sequence[_Column]) -> str:
    shown = [(head, cells) for head, cells, always in columns if always or any(c != MISSING for c in cells)]
    align = ["left"] + ["right"] * (len(shown) - 1)
    body = list(zip(*(cells for _, cells in shown), strict=True))
    return tabulate(body, [head for head, _ in shown], tablefmt="github", disable_numparse=True, colalign=align)


def _further(name: str, entries: Sequence[Entry]) -> _Column:
    """The column of a metric that a package adds."""
    found = [dict(e.row.further) for e in entries]
    return markdown(name), [with_error(row.get(name), row.get(f"{name}_stderr"), 4) for row in found], False


def _tasks(summary: Summary) -> str:
    """A table for each task; "" where none was asked."""
    if not summary.tasks:
        return ""
    each = "\n\n".join([*map(task_table, summary.tasks), tasks.EXPLAINED])
    return f"## Tasks\n\n{_fold(tasks.finding(summary.tasks), each)}"


def task_table(table: TaskTable) -> str:
    """A task's title, and what each file scored in it, flips from the base's answers where these are known."""
    heads = ["File", "Right", *(tasks.BESIDE if table.is_compared else ())]
    rows = []
    for file, score in table.rows:
        beside = [one or MISSING for one in tasks.beside(score)] if table.is_compared else []
        rows.append([markdown_code(file, cell=True), percent(score.acc, score.acc_stderr), *beside])
    align = ["left", *(["right"] * (len(heads) - 1))]
    listed = tabulate(rows, heads, tablefmt="github", disable_numparse=True, colalign=align)
    return f"**{markdown(table.title)}**\n\n{listed}"


def texts_section(summary: Summary) -> str:
    """KL divergence per text; "" for a single one."""
    found = summary.texts
    if not found.files:
        return ""
    rows = [
        [markdown_code(one.file, cell=True), *(_loss(one.on(name)) for name in found.names)]
        for one in found.files
    ]  # fmt: skip
    heads = ["File", *(f"KLD, {markdown(name)}" for name in found.names)]
    align = ["left", *["right"] * len(found.names)]
    table = tabulate(rows, heads, tablefmt="github", disable_numparse=True, colalign=align)
    each = "\n".join(f"- {markdown(sentence)}" for sentence in found.rest(summary.taken))
    inside = "\n\n".join(part for part in (each, table) if part)
    return f"## Several texts\n\n{_fold(found.finding, inside)}"


def _loss(loss: TextLoss | None) -> str:
    return MISSING if loss is None else with_error(loss.value, loss.error or None, 6)


def caches_section(summary: Summary) -> str:
    """What was measured in other contexts and with other caches, those that are harmless first."""
    found = summary.further
    if not found.lines:
        return ""
    heads = [
        "File", "Text", "Context", "KV cache", "PPL", "KLD", "More than F16's", "Same top", "pp512 (t/s)", "tg128 (t/s)",
    ]  # fmt: skip
    rows = [
        [markdown_code(x.file, cell=True), markdown(x.text), f"{x.n_ctx:,}", x.kv_type, number(x.ppl, 4), number(x.kld, 6),
         number(x.added, 6), percent(*(x.same_top or (None, None))), number(x.pp, 1),
         number(x.tg, 1)]
        for x in found.lines
    ]  # fmt: skip
    align = ["left", "left", "right", "left", *["right"] * 6]
    table = tabulate(rows, heads, tablefmt="github", disable_numparse=True, colalign=align)
    each = "\n".join(f"- {markdown(sentence)}" for sentence in found.harmless)
    inside = "\n\n".join(part for part in (each, table) if part)
    return f"## Contexts and KV caches\n\n{_fold(found.finding, inside)}"


def number(value: tuple[float, float | None] | None, digits: int) -> str:
    """A value with its error, or a dash when there is none."""
    known, error = value or (None, None)
    return with_error(known, error, digits)


def composition_table(entries: Sequence[Entry]) -> str:
    """The share of each file's bytes by tensor type."""
    rows = []
    for entry in (e for e in entries if e.composition):
        total = sum(entry.composition.values())
        held = ", ".join(f"{kind} {100 * size / total:.1f} %" for kind, size in entry.composition.items())
        rows.append([markdown(entry.label), markdown(held)])
    return tabulate(rows, ["Type", "Tensor types, by bytes"], tablefmt="github", disable_numparse=True)


def _recipe(told: Told) -> str:
    """A recipe's file: what was asked for, what came of it, and its types, beside those of a preset."""
    facts = [f"- {markdown(label)}: {markdown(value)}" for label, value in told.facts]
    facts += [f"- {markdown(remark)}" for remark in told.remarks]
    beside = {row.kind: row.runs for row in told.preset_rows}
    table = [
        [markdown(row.kind), markdown(row.runs), markdown(beside.get(row.kind, MISSING))] for row in told.rows
    ]
    heads = ["Tensors", markdown(told.entry.label), markdown(told.preset.label if told.preset else "")]
    width = 3 if told.preset is not None else 2
    types = tabulate([line[:width] for line in table], heads[:width], tablefmt="github", disable_numparse=True)
    listing = f"<details><summary>Type of each tensor, by layer</summary>\n\n{types}\n\n</details>"
    return "\n\n".join([f"### Recipe of {markdown_code(told.entry.row.file)}", "\n".join(facts), listing])


def _file(entry: Entry, summary: Summary) -> str:
    row = entry.row
    mark = " †" if row.file in summary.apart else ""
    front = " ★" if row.file in summary.front and not entry.is_base else ""
    return f"{markdown_code(row.file, cell=True)}{front}{mark}"


def _notes(summary: Summary) -> str:
    surely = "more than the error, two standard errors of the difference"
    notes = [f"★ closer to the base than every smaller file by {surely}."] if summary.front else []
    if summary.published:
        notes.append(
            "Measured as published figures are (WikiText-2, 512 tokens, all chunks): " + _published(summary)
        )
    elif any(e.quality is not None for e in summary.entries):
        notes.append(
            "Not comparable with published figures: those need WikiText-2's test split, --ctx 512, all chunks."
        )
    notes += [*summary.footnotes, *(summary.decisive.notes if summary.decisive else ())]
    notes += [f"† {file}: {reason}." for file, reason in summary.apart.items()]
    return "\n".join(f"- {markdown(note)}" for note in notes)


def _published(summary: Summary) -> str:
    names = [e.label for e in summary.entries if e.row.file in summary.published]
    return ("all rows" if len(names) == len(summary.entries) else ", ".join(names)) + "."


def _commands(entries: Sequence[Entry]) -> str:
    lines = list(dict.fromkeys(command for entry in entries for command in entry.commands))
    listing = markdown_block("\n".join(lines), "sh")
    return f"<details><summary>Every command that ran</summary>\n\n{listing}\n\n</details>" if lines else ""


def _hashes(entries: Sequence[Entry]) -> str:
    listing = markdown_block(
        "\n".join(terminal(f"{e.row.sha256}  {e.row.file}") for e in entries if e.row.is_gguf)
    )
    return f"<details><summary>SHA-256</summary>\n\n{listing}\n\n</details>"


def with_error(value: float | None, error: float | None, digits: int) -> str:
    """A value with its error, or a dash when it was not measured."""
    if value is None:
        return MISSING
    return f"{value:.{digits}f}" if error is None else f"{value:.{digits}f} ± {error:.{digits}f}"


def percent(value: float | None, error: float | None) -> str:
    """A fraction as a percentage with its error."""
    if value is None:
        return MISSING
    return f"{100 * value:.2f} %" if error is None else f"{100 * value:.2f} ± {100 * error:.2f} %"
