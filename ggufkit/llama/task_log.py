"""What llama-perplexity prints of tasks -> which of them were answered rightly. Pure functions of text.

The tool prints the score so far after each task: what each one gave is the difference, and must be 0 or 1. What it prints
twice must agree: the interval around a HellaSwag score, the choice and the right one beside each of Winogrande's, the
final result and the chance level of multiple choice. A lost or interleaved line is refused, never read as another answer.
Source: `tools/perplexity/perplexity.cpp`, `hellaswag_score`, `winogrande_score`, `multiple_choice_score`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from ggufkit.core.errors import ToolOutputError
from ggufkit.core.process import ToolOutput
from ggufkit.llama.logs import are_counted, explain_missing, model_of, plain
from ggufkit.llama.task_files import HELLASWAG, WINOGRANDE, Question

_Z = 1.95996398454
_HELLASWAG = re.compile(r"(?m)^(\d{1,9})\t *(\d+\.\d{8})%\t\[ *(-?\d+\.\d{4}|-?nan)%, *(-?\d+\.\d{4}|-?nan)%\]$")
_WINOGRANDE = re.compile(
    r"(?m)^(\d{1,9})\t(\d+\.\d{4})\t *(-?\d+\.\d{6}|-?nan|-?inf)  *(-?\d+\.\d{6}|-?nan|-?inf)  ([12])  ([12])$"
)
_MULTIPLE_CHOICE = re.compile(r"(?m)^(\d{1,9})\t(\d+\.\d{8})$")
_FINAL = re.compile(r"Final result: (\d+\.\d{4}) \+/- (?:\d+\.\d{4}|-?nan|-?inf)")
_CHANCE = re.compile(r"Random chance: (\d+\.\d{4}) \+/- (?:\d+\.\d{4}|-?nan|-?inf)")
_TOO_LONG = re.compile(r"does not fit in the context window \(requires (\d{1,9}) tokens\)")


def tokens_needed(output: ToolOutput) -> int | None:
    """The context, in tokens, that the tool says it lacks for a task; None where it lacks none."""
    found = _TOO_LONG.search(plain(output.text))
    return int(found[1]) if found else None


def lost_tail(output: ToolOutput) -> bool:
    """Whether a run ended well, and gave no reason for what it did not print, as happens to short ones and under load."""
    return output.returncode == 0 and not re.search(r"(?i)failed|error|bad task|no tasks", plain(output.text))


def tasks_done(text: str) -> int | None:
    """How many tasks are done, by the last line of a running tool's output; None before the first."""
    found = re.findall(r"(?m)^(\d{1,9})\t *\d+\.\d+", text)
    return int(found[-1]) if found else None


def parse_answers(output: ToolOutput, mode: str, questions: Sequence[Question]) -> tuple[bool, ...]:
    """Which tasks were answered rightly, in the order in which the tool takes them.

    That order is the file's, but for HellaSwag, which the tool shuffles with a seed of its own: the same for every model.

    Args:
        questions: what the tool read, in the file's order.

    Raises:
        ToolOutputError: tasks are missing (the tool exits with 0 even then), contradict each other or what was asked, or
            have no finite score.
    """
    text = plain(output.stdout) + "\n" + plain(output.stderr)
    parse = {HELLASWAG: _hellaswag, WINOGRANDE: _winogrande}.get(mode, _multiple_choice)
    scores, sound = parse(text, questions, output)
    if not are_counted([number for number, _ in scores], len(questions)):
        raise ToolOutputError(
            f"llama-perplexity scored {len(scores)} of {len(questions)} tasks with {model_of(output)}: "
            f"{explain_missing(text)}",
            log=output.log,
        )
    right = _steps([score for _, score in scores])
    if right is None or not sound:
        raise ToolOutputError("llama-perplexity's scores of single tasks contradict each other.", log=output.log)
    return right


_Parsed = tuple[list[tuple[int, float]], bool]
"""Each task's number with the score so far in percent; and whether what is printed twice agrees."""


def _steps(percentages: Sequence[float]) -> tuple[bool, ...] | None:
    """Which tasks raised the number of right ones; None where the score is not one of whole numbers."""
    counts = [round(p * n / 100) for n, p in enumerate(percentages, 1)]
    exact = all(abs(p - 100 * k / n) < 6e-5 for n, (p, k) in enumerate(zip(percentages, counts, strict=True), 1))
    gained = [now - before for before, now in zip([0, *counts], counts, strict=False)]
    return tuple(bool(one) for one in gained) if exact and set(gained) <= {0, 1} else None


def _hellaswag(text: str, _questions: Sequence[Question], _output: ToolOutput) -> _Parsed:
    rows = _HELLASWAG.findall(text)
    scores = [(int(number), float(score)) for number, score, _, _ in rows]
    sound = all(
        _is_interval(n, p, float(low), float(high)) for (n, p), (*_, low, high) in zip(scores, rows, strict=True)
    )
    return scores, sound


def _is_interval(n: int, percentage: float, low: float, high: float) -> bool:
    """Whether it is Wilson's interval of 95 % around a score of n tasks, to the digits that are printed."""
    if n == 0 or not 0 <= percentage <= 100:
        return False
    p, z = percentage / 100, _Z * _Z / n
    half = z * math.sqrt(n * (4 * p * (1 - p) + z)) / (2 * _Z)
    expected = [100 * (p + z / 2 + sign * half) / (1 + z) for sign in (-1, 1)]
    return all(abs(a - b) < 2e-4 for a, b in zip(expected, (low, high), strict=True))


def _winogrande(text: str, questions: Sequence[Question], output: ToolOutput) -> _Parsed:
    rows = _WINOGRANDE.findall(text)
    for number, _, one, other, _, _ in rows:
        if not (math.isfinite(float(one)) and math.isfinite(float(other))):
            message = f"Task {number} has the scores {one} and {other} with {model_of(output)}."
            raise ToolOutputError(message, hint="The file or the backend is broken for it.", log=output.log)
    expected = [question.right + 1 for question in questions]
    sound = [int(row[5]) for row in rows] == expected[: len(rows)]
    sound = sound and all(_chooses(float(one), float(other), int(chosen)) for _, _, one, other, chosen, _ in rows)
    by_choice = [chosen == answer for *_, chosen, answer in rows]
    scores = [(int(row[0]), float(row[1])) for row in rows]
    return scores, sound and _steps([score for _, score in scores]) == tuple(by_choice)


def _chooses(one: float, other: float, chosen: int) -> bool:
    """Whether the choice is that of the better score, of which six decimals are printed."""
    return abs(one - other) < 2e-6 or chosen == (1 if one > other else 2)


def _multiple_choice(text: str, questions: Sequence[Question], output: ToolOutput) -> _Parsed:
    scores = [(int(number), float(score)) for number, score in _MULTIPLE_CHOICE.findall(text)]
    final, chance = _FINAL.findall(text), _CHANCE.findall(text)
    if not scores or len(final) != 1 or len(chance) != 1:
        message = f"llama-perplexity gave no final result with {model_of(output)}: {explain_missing(text)}"
        raise ToolOutputError(message, log=output.log)
    n_answers = sum(len(question.answers) for question in questions)
    expected = (scores[-1][1], 100 * len(questions) / n_answers)
    printed = (float(final[0]), float(chance[0]))
    return scores, all(abs(a - b) < 2e-3 for a, b in zip(expected, printed, strict=True))
