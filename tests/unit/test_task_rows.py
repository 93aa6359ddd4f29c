"""Rows with the columns of data sets -> questions; bad ones are named by file, row and reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ggufkit.core.errors import CorpusError, UsageError
from ggufkit.core.progress import SilentReporter
from ggufkit.llama import task_files
from ggufkit.llama.task_files import BadRow
from ggufkit.texts.tasks import questions, shapes
from ggufkit.texts.tasks.known import TASKS
from ggufkit.texts.tasks.questions import Drawn, TaskData, TaskSpec

HELLASWAG = {"activity_label": "Baking", "ctx_a": "A man [substeps] cooks.", "ctx_b": "he", "ctx": "ignored", "label": "2",
             "endings": ["eats [title] all.", "sleeps.", "sings\nloudly.", "goes."]}  # fmt: skip
WINOGRANDE = {"sentence": "The _ saw it.", "option1": "fox", "option2": "dog", "answer": "2"}
ARC = {"question": "What is hot?", "choices": {"text": ["ice", "fire"], "label": ["1", "2"]}, "answerKey": "2"}
MMLU = {"question": "2 + 2?", "subject": "high_school_maths", "choices": ["1", "10", "4"], "answer": 2}
TRUTHFULQA = {"question": "Is it?", "mc1_targets": {"choices": ["Yes.", "No.", "Maybe."], "labels": [1, 0, 0]}}
ROWS: dict[str, dict[str, Any]] = {
    "hellaswag": HELLASWAG, "winogrande": WINOGRANDE, "arc": ARC, "mmlu": MMLU, "truthfulqa": TRUTHFULQA,
}  # fmt: skip


def asked(row: dict[str, Any]) -> tuple[str, tuple[str, ...], int]:
    shape = shapes.shape_of(list(row))
    assert shape is not None
    found = shapes.question(row, shape, "row 1")
    return found.context, found.answers, found.right


@pytest.fixture(autouse=True)
def _own_cache(private_cache: Path) -> None:
    """What is drawn is written into the cache."""


def jsonl(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def resolve(path: Path, drawn: Drawn | None = None, reporter: SilentReporter | None = None) -> TaskData:
    return questions.resolve(TaskSpec("mine", path), drawn or Drawn(None), reporter or SilentReporter())


def test_each_task_is_read_by_the_columns_of_its_data_set() -> None:
    assert set(ROWS) == set(TASKS)
    for name, row in ROWS.items():
        shape = shapes.shape_of(list(row))
        assert shape == shapes.SHAPES[TASKS[name].columns]
        assert shape.mode == TASKS[name].mode


def test_hellaswag_is_asked_without_the_marks_of_its_pages() -> None:
    assert asked(HELLASWAG) == ("Baking: A man cooks. He", ("eats. all.", "sleeps.", "sings loudly.", "goes."), 2)


def test_winogrande_counts_from_one() -> None:
    assert asked(WINOGRANDE) == ("The _ saw it.", ("fox", "dog"), 1)


def test_arc_names_its_answer_by_a_label() -> None:
    assert asked(ARC) == ("Question: What is hot?\nAnswer:", ("ice", "fire"), 1)


def test_mmlu_asks_for_a_letter() -> None:
    context, answers, right = asked(MMLU)
    assert context.endswith("about high school maths.\n\n2 + 2?\nA. 1\nB. 10\nC. 4\nAnswer:")
    assert (answers, right) == (("A", "B", "C"), 2)
    assert asked({**MMLU, "answer": "B"})[2] == 1


def test_truthfulqa_does_not_always_have_the_right_answer_first() -> None:
    rows = [{**TRUTHFULQA, "question": f"Is it {n}?"} for n in range(60)]
    found = [asked(row) for row in rows]
    assert {right for *_, right in found} == {0, 1, 2}
    assert all(answers[right] == "Yes." for _, answers, right in found)
    assert found == [asked(row) for row in rows]


@pytest.mark.parametrize(
    ("name", "change", "why"),
    [
        ("hellaswag", {"label": ""}, "its label is ''"),
        ("hellaswag", {"endings": "a"}, "its endings are no list"),
        ("winogrande", {"answer": None}, "its answer is None"),
        ("winogrande", {"option2": 7}, "its option2 is 7, no text"),
        ("arc", {"answerKey": "C"}, "its answerKey 'C' is none of 1, 2"),
        ("mmlu", {"choices": [1, 2]}, "its choices are no list of texts"),
        ("truthfulqa", {"mc1_targets": {"choices": ["a", "b"], "labels": [1, 1]}}, "no single right answer"),
    ],
)
def test_a_row_that_is_no_question_says_why(name: str, change: dict[str, Any], why: str) -> None:
    with pytest.raises(BadRow, match=why):
        asked({**ROWS[name], **change})


def test_files_of_all_kinds_hold_the_same_questions(tmp_path: Path) -> None:
    rows = [{**MMLU, "question": f"2 + {n}?"} for n in range(3)]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    header = "question,subject,choice1,choice2,choice3,choice4,answer\n"
    lines = [f'"{row["question"]}",{row["subject"]},1,10,4,,2\n' for row in rows]
    (tmp_path / "a.csv").write_text(header + "".join(lines))
    files = [jsonl(tmp_path / "a.jsonl", rows), *(tmp_path / f"a.{kind}" for kind in ("json", "csv"))]
    found = [resolve(file) for file in files]
    assert len(found[0].questions) == 3
    assert {data.sha256 for data in found} == {found[0].sha256}


@pytest.mark.parametrize("mode", task_files.MODES)
def test_files_of_the_tool_are_read(mode: str, tmp_path: Path) -> None:
    row = {"hellaswag": HELLASWAG, "winogrande": WINOGRANDE, "multiple-choice": ARC}[mode]
    data = resolve(jsonl(tmp_path / "a.jsonl", [row, row]))
    copy = tmp_path / f"copy{task_files.SUFFIXES[mode]}"
    copy.write_bytes(data.path.read_bytes())
    again = resolve(copy)
    assert (again.mode, again.sha256) == (mode, data.sha256)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"question": "a"}\n', "line 1: no task has the columns question"),
        ("a.jsonl", json.dumps(MMLU) + '\n{"question": \n', "line 2, is not valid JSON"),
        ("a.jsonl", json.dumps(MMLU) + "\n" + json.dumps({**MMLU, "answer": 9}), "line 2: its right answer is number 10"),
        ("a.json", json.dumps([WINOGRANDE, {**WINOGRANDE, "sentence": "no blank"}]), "entry 2: its sentence has no _"),
        ("a.csv", "sentence,option1,option2,answer\nThe _ ran,a,b,1\nThe _ ran,a,b\n", "line 3, has 3 cells for 4"),
        ("a.csv", "0,The _ ran.,fox,dog,5\n", "line 1: it is not INDEX"),
        ("a.txt", "context\n0\na\nb\nc\nd\ncontext\n", "line 7: a question has 6 lines"),
        ("a.md", "words", "no file of tasks"),
        ("a.jsonl", "", "no question that can be asked"),
    ],
)  # fmt: skip
def test_a_bad_row_is_named_by_file_row_and_reason(name: str, content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(CorpusError) as refused:
        resolve(tmp_path / name)
    assert message in refused.value.message
    assert str(tmp_path / name) in refused.value.message
    assert refused.value.hint


def test_what_the_tool_cannot_score_is_left_out_and_said(tmp_path: Path) -> None:
    twice = {**ARC, "choices": {"text": ["ice", "ice"], "label": ["1", "2"]}}
    reporter = SilentReporter()
    data = resolve(jsonl(tmp_path / "a.jsonl", [ARC, twice, ARC]), reporter=reporter)
    assert [question.place for question in data.questions] == ["line 1", "line 3"]
    assert reporter.warnings == ["mine=a.jsonl: 1 of 3 left out (line 2: its answers 2 and 1 are equal)."]


def test_a_sample_is_the_same_whoever_draws_it(tmp_path: Path) -> None:
    rows = [{**WINOGRANDE, "sentence": f"The _ saw {n}."} for n in range(50)]
    file = jsonl(tmp_path / "a.jsonl", rows)
    one, same, other = (resolve(file, Drawn(20, seed)) for seed in (1, 1, 2))
    assert len(one.questions) == 20
    assert one.sha256 == same.sha256 != other.sha256
    assert one.chance == 0.5
    assert len(resolve(file, Drawn(400)).questions) == 50


def test_tasks_are_named_or_files(tmp_path: Path) -> None:
    file = jsonl(tmp_path / "My Questions-2.jsonl", [ARC])
    given = ("hellaswag", "ARC", str(file), f"arc_easy={file}")
    assert questions.parse(given) == (
        TaskSpec("hellaswag"), TaskSpec("arc"), TaskSpec("my_questions_2", file), TaskSpec("arc_easy", file),
    )  # fmt: skip
    assert [one.typed for one in questions.parse(given)][2:] == [
        "my_questions_2=My Questions-2.jsonl", "arc_easy=My Questions-2.jsonl",
    ]  # fmt: skip
    for wrong, message in (("swag", "no task 'swag'"), (f"2x={file}", "no task"), (str(tmp_path), "no task")):
        with pytest.raises(UsageError, match=message):
            questions.parse([wrong])
    with pytest.raises(UsageError, match="Two of --tasks are called arc"):
        questions.parse(["arc", f"arc={file}"])
