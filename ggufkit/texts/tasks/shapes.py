"""Rows of data sets -> questions. A row is read by its columns: those of the data set that it is like. Pure.

What a model reads is what EleutherAI's lm-evaluation-harness gives it without examples: HellaSwag's context with its
label and the marks of WikiHow taken out, ARC's "Question: … Answer:", MMLU's choices with letters, of which the letter is
the answer. TruthfulQA is asked without the harness's six examples.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ggufkit.llama.task_files import HELLASWAG, MULTIPLE_CHOICE, WINOGRANDE, BadRow, Question, one_line
from ggufkit.texts.tasks import generated
from ggufkit.texts.tasks.known import GSM8K, IFEVAL, TOOLS

Row = Mapping[str, Any]
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True)
class Shape:
    """How rows are read that have certain columns.

    Args:
        columns: that they must have; a list may also be columns with a number behind its name.
        mode: of llama-perplexity.
    """

    name: str
    columns: tuple[str, ...]
    mode: str
    read: Callable[[Row], Question]


def shape_of(names: Sequence[str]) -> Shape | None:
    """The shape of a table with these columns; None for one that no task has."""
    have = {*names, *(f"{match[1]}s" for name in names if (match := _NUMBERED.fullmatch(name)))}
    return next((shape for shape in SHAPES.values() if have.issuperset(shape.columns)), None)


def question(row: Row, shape: Shape, place: str) -> Question:
    """The question of a row. Raises BadRow, with its place."""
    try:
        return replace(shape.read(row), place=place)
    except BadRow as bad:
        raise BadRow(bad.what, place) from None


_NUMBERED = re.compile(r"(ending|choice)_?(\d{1,2})")


def _hellaswag(row: Row) -> Question:
    if "ctx_a" in row:
        context = f"{_text(row, 'ctx_a')} {_text(row, 'ctx_b', optional=True).capitalize()}".strip()
    else:
        context = _text(row, "ctx")
    label = _text(row, "activity_label", optional=True)
    whole = f"{label}: {context}" if label else context
    endings = tuple(_without_marks(ending) for ending in _list(row, "endings"))
    return Question(_without_marks(whole), endings, _number(row, "label", 0))


def _without_marks(text: str) -> str:
    """The text without what WikiHow's pages have besides words."""
    plain = re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". "))
    return one_line(plain.replace("  ", " "))


def _winogrande(row: Row) -> Question:
    choices = (one_line(_text(row, "option1")), one_line(_text(row, "option2")))
    return Question(one_line(_text(row, "sentence")), choices, _number(row, "answer", 1))


def _arc(row: Row) -> Question:
    choices, labels = row.get("choices"), None
    if isinstance(choices, Mapping):
        labels, choices = _texts(choices.get("label"), "choices.label"), choices.get("text")
    elif isinstance(choices, (list, tuple)) and all(isinstance(one, Mapping) for one in choices):
        labels = [_text(one, "label") for one in choices]
        choices = [_text(one, "text") for one in choices]
    answers = _texts(choices, "choices") if choices is not None else _list(row, "choices")
    key = _text(row, "answerKey").strip()
    names = labels if labels is not None else list(_LETTERS[: len(answers)])
    if key not in names:
        raise BadRow(f"its answerKey {key!r} is none of {', '.join(names)}")
    return Question(f"Question: {_text(row, 'question').strip()}\nAnswer:", tuple(answers), names.index(key))


def _mmlu(row: Row) -> Question:
    choices = _list(row, "choices")
    if len(choices) > len(_LETTERS):
        raise BadRow(f"it has {len(choices)} choices, more than there are letters")
    letters = _LETTERS[: len(choices)]
    subject = _text(row, "subject", optional=True).replace("_", " ").strip()
    about = f"The following are multiple choice questions (with answers) about {subject}.\n\n" if subject else ""
    listed = "\n".join(f"{letter}. {choice}" for letter, choice in zip(letters, choices, strict=True))
    return Question(
        f"{about}{_text(row, 'question').strip()}\n{listed}\nAnswer:", tuple(letters), _letter(row, letters)
    )


def _letter(row: Row, letters: str) -> int:
    """The index of the right choice, which is written as a number or as a letter."""
    given = str(row.get("answer", "")).strip()
    return letters.index(given) if given and given in letters else _number(row, "answer", 0)


def _truthfulqa(row: Row) -> Question:
    """The answers in another order, the same for all models: in the data set the right one is always the first."""
    targets = row.get("mc1_targets")
    if not isinstance(targets, Mapping):
        raise BadRow("its mc1_targets are no choices with labels")
    asked, choices = _text(row, "question").strip(), _texts(targets.get("choices"), "mc1_targets.choices")
    labels = targets.get("labels")
    if not isinstance(labels, (list, tuple)) or len(labels) != len(choices) or [*labels].count(1) != 1:
        raise BadRow(f"it has no single right answer among {len(choices)}")
    order = random.Random(asked).sample(range(len(choices)), len(choices))
    right = order.index([*labels].index(1))
    return Question(f"Q: {asked}\nA:", tuple(choices[i] for i in order), right)


SHAPES = {
    shape.name: shape
    for shape in (
        Shape("hellaswag", ("endings", "label"), HELLASWAG, _hellaswag),
        Shape("winogrande", ("sentence", "option1", "option2", "answer"), WINOGRANDE, _winogrande),
        Shape("truthfulqa", ("question", "mc1_targets"), MULTIPLE_CHOICE, _truthfulqa),
        Shape("arc", ("question", "choices", "answerKey"), MULTIPLE_CHOICE, _arc),
        Shape("mmlu", ("question", "choices", "answer"), MULTIPLE_CHOICE, _mmlu),
        Shape("gsm8k", ("question", "answer"), GSM8K, generated.gsm8k),
        Shape("ifeval", ("prompt", "instruction_id_list", "kwargs"), IFEVAL, generated.ifeval),
        Shape("tools", ("prompt", "tools", "calls"), TOOLS, generated.tools),
    )
}


def _text(row: Row, name: str, *, optional: bool = False) -> str:
    value = row.get(name)
    if value is None and optional:
        return ""
    if isinstance(value, str):
        return value
    raise BadRow(f"it has no {name}" if value is None else f"its {name} is {value!r}, no text")


def _texts(value: object, name: str) -> list[str]:
    if not isinstance(value, (list, tuple)) or not all(isinstance(one, str) for one in value):
        raise BadRow(f"its {name} are no list of texts")
    return [str(one) for one in value]


def _list(row: Row, name: str) -> list[str]:
    """A list of texts; of a table without lists the columns with a number behind its name, but for empty ones at the end."""
    if row.get(name) is not None:
        return _texts(row[name], name)
    found = {int(m[2]): v for key, v in row.items() if (m := _NUMBERED.fullmatch(key)) and name == f"{m[1]}s"}
    cells = _texts([found[number] for number in sorted(found)], name)
    while cells and not cells[-1].strip():
        cells.pop()
    if not cells:
        raise BadRow(f"it has no {name}")
    return cells


def _number(row: Row, name: str, first: int) -> int:
    """An index that is written as a number from `first`, or as its digits."""
    given = str(row.get(name, "")).strip()
    if not re.fullmatch(r"\d{1,3}", given):
        raise BadRow(f"its {name} is {row.get(name)!r}, no number from {first}")
    return int(given) - first
