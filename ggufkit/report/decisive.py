"""The five figures by which a file is chosen where more was measured than one table holds: its size, what it loses, what it
answers rightly, how fast it generates and the memory it takes. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from ggufkit.core.records import ResultRow, TaskScore
from ggufkit.report.caches import Number
from ggufkit.report.choose import MemoryBudget
from ggufkit.report.data import Entry
from ggufkit.report.tasks import titles
from ggufkit.report.unevenness import FileLosses, TextLoss, Texts

_LOSSES = (
    ("KLD", "kld_mean", "kld_stderr"),
    ("Cosine", "cosine_mean", "cosine_stderr"),
    ("PPL", "ppl", "ppl_stderr"),
)
"""What tells a loss, the best first: its head in tables, and the columns of its value and error."""


@dataclass(frozen=True)
class Figures:
    """Those of one file; None where something was not measured.

    Args:
        loss: with its standard error: the mean over all texts, or of the table's text where it was not measured on all.
        worst: on the text on which it loses most; None where it was not measured on all of several.
        alone: the text that its loss is of, where others have a mean over several; else "".
        right: the fraction of right answers with its standard error, the mean over tasks that all files did.
        flips: the mean fraction of the base's answers that changed from right to wrong or the other way.
        memory_bytes: with the KV cache of the whole context, and buffers.
    """

    entry: Entry
    loss: Number | None
    worst: TextLoss | None
    alone: str
    right: Number | None
    flips: float | None
    memory_bytes: int | None


@dataclass(frozen=True)
class Decisive:
    """The table.

    Args:
        loss: what tells a loss, as heads of tables call it.
        notes: how its figures are to be read, in sentences.
        rest: what is worst among the other figures of the files, in a sentence.
    """

    files: tuple[Figures, ...]
    loss: str
    notes: tuple[str, ...]
    rest: str


def decisive(entries: Sequence[Entry], texts: Texts, budget: MemoryBudget) -> Decisive:
    """The figures of these files, in their order, for a context and KV cache that they run with."""
    rows = [entry.row for entry in entries]
    loss = next((one for one in _LOSSES if any(getattr(row, one[1]) is not None for row in rows)), _LOSSES[0])
    whole = {one.file: one for one in texts.files if len(one.losses) == len(texts.names)}
    asked = _asked(rows)
    files = []
    for entry in entries:
        found = whole.get(entry.row.file)
        value = _own(entry.row, loss) if found is None else _mean(found)
        alone = texts.names[0] if texts.names and value is not None and found is None else ""
        scores = [score for score in entry.row.tasks if (score.task, score.data_sha256) in asked]
        memory = entry.footprint.total(budget.n_ctx) if entry.row.is_gguf else None
        worst = None if found is None else found.worst
        files.append(Figures(entry, value, worst, alone, _right(scores), _flips(scores), memory))
    tasks = titles({task for task, _ in asked})
    return Decisive(tuple(files), loss[0], tuple(_notes(texts, tasks, budget)), _rest(rows))


def _asked(rows: Sequence[ResultRow]) -> set[tuple[str, str]]:
    """The tasks, by the hash of their questions, that all files did which did any: only these have one mean."""
    each = [{(score.task, score.data_sha256) for score in row.tasks} for row in rows if row.tasks]
    return set.intersection(*each) if each else set()


def _own(row: ResultRow, loss: tuple[str, str, str]) -> Number | None:
    """What a file loses on the table's text."""
    value, error = (getattr(row, column) for column in loss[1:])
    return None if value is None else (value, error)


def _mean(found: FileLosses) -> Number:
    """What a file loses over all texts."""
    return found.mean, math.hypot(*(one.error for one in found.losses)) / len(found.losses)


def _right(scores: Sequence[TaskScore]) -> Number | None:
    if not scores:
        return None
    errors = [score.acc_stderr for score in scores if score.acc_stderr is not None]
    error = math.hypot(*errors) / len(scores) if len(errors) == len(scores) else None
    return fmean(score.acc for score in scores), error


def _flips(scores: Sequence[TaskScore]) -> float | None:
    found = [score.flips for score in scores if score.flips is not None]
    return fmean(found) if found and len(found) == len(scores) else None


def _notes(texts: Texts, tasks: Sequence[str], budget: MemoryBudget) -> list[str]:
    notes = []
    if texts.names:
        notes.append(
            f"KLD is the mean over {len(texts.names)} texts; beside it is the one on which a file loses most. What "
            f"to take is chosen by the first, {texts.names[0]}."
        )
    if tasks:
        over = f"the mean over {', '.join(tasks)}" if len(tasks) > 1 else f"those to {tasks[0]}"
        notes.append(f"Right answers are {over}; beside them are the flips from the base's answers.")
    counted = f"Memory is for {budget.context}: weights, KV cache and compute buffers."
    return [*notes, counted]


def _rest(rows: Sequence[ResultRow]) -> str:
    """The file that is farthest from the base by what the table does not tell; "" where there is none."""
    least = min((r for r in rows if r.same_top_p is not None), key=lambda r: r.same_top_p or 0.0, default=None)
    if least is not None:
        return f"{least.file} is worst: its most likely token is the base's {least.same_top_p:.1%} of the time."
    least = min((r for r in rows if r.cosine_min is not None), key=lambda r: r.cosine_min or 0.0, default=None)
    return "" if least is None else f"{least.file} is worst: a cosine of {least.cosine_min:.5f} in one passage."
