"""What files scored in each task, beside chance and the base: one table for each sample of questions."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass

from ggufkit.core.records import ResultRow, TaskScore
from ggufkit.measure.tasks.flips import Flips
from ggufkit.texts.tasks.known import TITLES

EXPLAINED = (
    "Right answers in per cent of the questions, the same for all files, with the standard error. Flips are answers that "
    "are right in the file or in the base, but not in both: lost (−) and gained (+); the error of the change is by them, "
    "p is McNemar's, exact. Asked without examples, by llama-perplexity: not comparable with leaderboards."
)
BESIDE = ("Change", "Flips", "p")
"""Heads of what files differ in from their base."""
_SURELY = 0.05
"""The p-value below which flips are no chance."""


@dataclass(frozen=True)
class TaskTable:
    """Files that were asked the same questions.

    Args:
        rows: file names and scores, in the order of the results.
        is_alone: whether all files that did this task are in it.
    """

    task: str
    n: int
    chance: float
    rows: tuple[tuple[str, TaskScore], ...]
    is_alone: bool = True

    @property
    def title(self) -> str:
        """The task, its questions, and what guessing gives."""
        name = TITLES.get(self.task, self.task)
        other = "" if self.is_alone else ", a sample of its own"
        return f"{name}: {self.n:,} question{'' if self.n == 1 else 's'}{other}, chance {self.chance:.1%}"

    @property
    def is_compared(self) -> bool:
        """Whether there are flips to tell of."""
        return any(score.flips is not None for _, score in self.rows)


def tables_of(rows: Sequence[ResultRow]) -> tuple[TaskTable, ...]:
    """The tables of all tasks that any of the files did, in the order of the known ones, then others."""
    found = [(row.file, score) for row in rows for score in row.tasks]
    tasks = _ordered({score.task for _, score in found})
    return tuple(table for task in tasks for table in _of_task(task, found))


def _ordered(tasks: Set[str]) -> list[str]:
    known = {name: number for number, name in enumerate(TITLES)}
    return sorted(tasks, key=lambda name: (known.get(name, len(known)), name))


def titles(tasks: Set[str]) -> tuple[str, ...]:
    """What tasks are called, the known ones first."""
    return tuple(TITLES.get(name, name) for name in _ordered(tasks))


def finding(tables: Sequence[TaskTable]) -> str:
    """What was asked, and who lost most of the base's answers, in a line."""
    asked = ", ".join(titles({table.task for table in tables}))
    changed = [(file, score) for table in tables for file, score in table.rows if score.lost is not None]
    if not changed:
        return f"{asked}."
    file, score = min(changed, key=lambda one: _change(one[1]))
    if _change(score) >= 0:
        return f"{asked}. No file answers worse than the base."
    title = TITLES.get(score.task, score.task)
    return f"{asked}. Worst: {file} in {title}, {change(score)}, p {p_value(score)}."


def _change(score: TaskScore) -> float:
    return Flips(score.n, score.lost or 0, score.gained or 0).change.value


def _of_task(task: str, found: Sequence[tuple[str, TaskScore]]) -> list[TaskTable]:
    samples = dict.fromkeys(score.data_sha256 for _, score in found if score.task == task)
    groups = [[(f, s) for f, s in found if s.task == task and s.data_sha256 == sample] for sample in samples]
    return [TaskTable(task, g[0][1].n, g[0][1].chance, tuple(g), len(groups) == 1) for g in groups]


def flipped(score: TaskScore) -> str:
    """Flips in words: "3.0 % (−6 +3)"; "" where there was nothing to compare with."""
    if score.flips is None:
        return ""
    return f"{score.flips:.1%} (−{score.lost} +{score.gained})"


def change(score: TaskScore) -> str:
    """The change of the accuracy from the base's, and its error: "−1.3% ±1.2%"; "" where there was no base."""
    if score.lost is None or score.gained is None:
        return ""
    found = Flips(score.n, score.lost, score.gained).change
    value = f"{found.value:+.1%}".replace("-", "−")
    return value if found.stderr is None else f"{value} ±{found.stderr:.1%}"


def beside(score: TaskScore) -> tuple[str, str, str]:
    """What a file differs in from its base: the change, the flips and p; "" for each where there was no base."""
    return change(score), flipped(score), p_value(score)


def p_value(score: TaskScore) -> str:
    """McNemar's p; "" where there was nothing to compare with."""
    if score.p is None:
        return ""
    return f"{score.p:.3f}" if score.p >= 0.0005 else f"{score.p:.1e}"


def is_sure(score: TaskScore) -> bool:
    """Whether flips are more uneven than chance makes them."""
    return score.p is not None and score.p < _SURELY
