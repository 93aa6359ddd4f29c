"""What llama-perplexity prints of tasks, recorded: each answer is told, and what is lost or garbled is refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ggufkit.core.errors import ToolOutputError
from ggufkit.core.process import ToolOutput
from ggufkit.llama import task_log
from ggufkit.llama.task_files import HELLASWAG, MULTIPLE_CHOICE, WINOGRANDE, Question

LOGS = Path(__file__).parents[1] / "logs"
RECORDED = {HELLASWAG: "hellaswag", WINOGRANDE: "winogrande", MULTIPLE_CHOICE: "arc"}
IN_ORDER = (True, True, True, False) * 3
"""How the recorded model answered, but for HellaSwag's questions, which the tool shuffles."""
_RIGHT = {HELLASWAG: [2] * 12, WINOGRANDE: [1, 0, 0, 0, 0, 0, 1, 1, 0, 1, 0, 1], MULTIPLE_CHOICE: [2] * 12}
_COUNT = {HELLASWAG: 4, WINOGRANDE: 2, MULTIPLE_CHOICE: 5}


def printed(text: str, code: int = 0) -> ToolOutput:
    return ToolOutput(("llama-perplexity", "-m", "/dir/some-Q8_0.gguf"), code, text, "", 1.0)


def log(mode: str) -> str:
    return (LOGS / f"tasks-{RECORDED[mode]}-cpu-planted.log").read_text()


def parse(text: str, mode: str) -> tuple[bool, ...]:
    asked = [Question("_", tuple("abcde"[: _COUNT[mode]]), right) for right in _RIGHT[mode]]
    return task_log.parse_answers(printed(text), mode, asked)


@pytest.mark.parametrize("mode", RECORDED)
def test_each_answer_is_told(mode: str) -> None:
    found = parse(log(mode), mode)
    assert sum(found) == 9
    assert mode == HELLASWAG or found == IN_ORDER
    assert task_log.tasks_done(log(mode).split("\n8\t")[0]) == 7


@pytest.mark.parametrize("mode", RECORDED)
def test_any_lost_line_of_a_task_is_missed(mode: str) -> None:
    lines = log(mode).splitlines(keepends=True)
    tasks = [i for i, line in enumerate(lines) if re.match(r"\d+\t", line)]
    assert len(tasks) == 12
    for lost in tasks:
        with pytest.raises(ToolOutputError, match=r"scored 11 of 12|contradict"):
            parse("".join(lines[:lost] + lines[lost + 1 :]), mode)
    cut = "".join(lines[: tasks[5]])
    with pytest.raises(ToolOutputError, match=r"5 of 12|no final result"):
        parse(cut, mode)
    assert task_log.lost_tail(printed(cut))


@pytest.mark.parametrize(
    ("mode", "before", "after"),
    [
        (HELLASWAG, "\t[30.0642%", "\t[31.0642%"),  # the interval is another score's
        (HELLASWAG, "4\t75.00000000%", "4\t77.00000000%"),  # no number of right answers gives that
        (WINOGRANDE, "  2  1\n5", "  2  2\n5"),  # not what was asked
        (
            WINOGRANDE,
            "-8.754462   -1.108204  2  2\n2",
            "-1.108204   -8.754462  2  2\n2",
        ),  # the worse one is chosen
        (WINOGRANDE, "4\t75.0000", "4\t100.0000"),  # the choice says otherwise
        (MULTIPLE_CHOICE, "Final result: 75.0000", "Final result: 65.0000"),
        (MULTIPLE_CHOICE, "Random chance: 20.0000", "Random chance: 25.0000"),
        (MULTIPLE_CHOICE, "4\t75.00000000", "4\t50.00000000"),  # an answer takes back one before
    ],
)
def test_what_contradicts_itself_is_refused(mode: str, before: str, after: str) -> None:
    changed = log(mode).replace(before, after)
    assert changed != log(mode)
    with pytest.raises(ToolOutputError, match="contradict"):
        parse(changed, mode)


def test_a_score_that_is_no_number_is_refused() -> None:
    with pytest.raises(ToolOutputError, match="Task 1 has the scores nan"):
        parse(log(WINOGRANDE).replace("-8.754462   -1.108204", "nan   -1.108204", 1), WINOGRANDE)


def test_a_single_question_has_no_error() -> None:
    text = "1\t100.00000000\nFinal result: 100.0000 +/- -nan\nRandom chance: 50.0000 +/- inf\n"
    asked = [Question("Who?", ("Ann", "Bob"), 0)]
    assert task_log.parse_answers(printed(text), MULTIPLE_CHOICE, asked) == (True,)


def test_a_context_that_is_too_small_is_known() -> None:
    text = "hellaswag_score : task 0 does not fit in the context window (requires 1234 tokens)\n"
    assert task_log.tokens_needed(printed(text)) == 1234
    assert task_log.tokens_needed(printed(log(HELLASWAG))) is None


@pytest.mark.parametrize(
    "reason", ["hellaswag_score: llama_decode() failed", "found bad task with empty question"]
)
def test_a_reason_for_a_missing_result_is_no_lost_tail(reason: str) -> None:
    assert not task_log.lost_tail(printed(reason))
    with pytest.raises(ToolOutputError):
        parse(reason, HELLASWAG)
