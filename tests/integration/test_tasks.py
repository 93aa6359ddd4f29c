"""Tasks by the real tool, on models whose answers are known: each score is right, and so is each flip."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import ggufkit as api
from ggufkit.core.manifest import read_manifest
from ggufkit.measure.tasks import answers
from ggufkit.texts.tasks.known import TASKS
from tests import planted
from tests.integration.run_cli import fails
from tests.integration.run_cli import ggufkit as cli

N = 12
RIGHT = [i % 4 != 3 for i in range(N)]
"""Which questions a model answers rightly that prefers the fox; who prefers the dog answers the others."""


def rows(task: str) -> list[dict[str, Any]]:
    """Questions in the form of a task's data set, whose right answer has the fox, or for some of them the dog."""
    return [_ROWS[task](i, "fox" if fox else "dog") for i, fox in enumerate(RIGHT)]


def _hellaswag(i: int, right: str) -> dict[str, Any]:
    animals = ["lazy", "dog", "fox", "over"]
    return {
        "ctx": f"The quick brown {i}",
        "endings": [f"{a} jumps." for a in animals],
        "label": animals.index(right),
    }


def _winogrande(i: int, right: str) -> dict[str, Any]:
    choices = ["fox", "dog"] if i % 3 else ["dog", "fox"]
    sentence = f"{i} times the quick brown _ jumps over the lazy dog."  # what follows a choice decides
    return {"sentence": sentence, "option1": choices[0], "option2": choices[1], "answer": 1 + choices.index(right)}


def _arc(i: int, right: str) -> dict[str, Any]:
    choices = {
        "text": ["the lazy", "the dog", "the fox", "the quick", "the brown"],
        "label": ["A", "B", "C", "D", "E"],
    }
    key = choices["label"][choices["text"].index(f"the {right}")]
    return {"question": f"What jumps {i} times?", "choices": choices, "answerKey": key}


def _mmlu(i: int, right: str) -> dict[str, Any]:
    return {"question": f"{i} jumps?", "choices": ["w", "x", "y", "z"], "answer": {"fox": 2, "dog": 0}[right]}


def _truthfulqa(i: int, right: str) -> dict[str, Any]:
    other = {"fox": "dog", "dog": "fox"}[right]
    choices = [f"A {right} jumps.", f"A {other} jumps.", "The lazy.", "The quick."]
    return {"question": f"Who jumps {i} times?", "mc1_targets": {"choices": choices, "labels": [1, 0, 0, 0]}}


_ROWS = {"hellaswag": _hellaswag, "winogrande": _winogrande, "arc": _arc, "mmlu": _mmlu, "truthfulqa": _truthfulqa}


@pytest.fixture
def fox(base: Path) -> Path:
    """A model that prefers the fox, and the letter C."""
    return planted.prefer(base, base.parent / "fox.gguf", {"Ġfox": 8, "C": 8}, ("Ġfox", "Ġjumps"))


@pytest.fixture
def dog(base: Path) -> Path:
    """A model that prefers the dog, and the letter A."""
    return planted.prefer(base, base.parent / "dog.gguf", {"Ġdog": 8, "A": 8}, ("Ġdog", "Ġjumps"))


@pytest.fixture
def asked(tmp_path: Path) -> str:
    """All tasks, with questions of our own."""
    assert set(_ROWS) == set(TASKS)
    for task in TASKS:
        (tmp_path / f"{task}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(task)))
    return ",".join(f"{task}={tmp_path / task}.jsonl" for task in TASKS)


def test_every_task_is_scored_as_the_models_answer(fox: Path, dog: Path, asked: str, tmp_path: Path) -> None:
    stats = pytest.importorskip("scipy.stats", reason="scipy is what p is compared with")
    out = tmp_path / "out"
    done = cli("tasks", dog, "--base", fox, "--tasks", asked, "--out", out, "--json", "--threads", 1)
    assert done.code == 0, done.err
    found = json.loads(done.out)
    for score in found["fox.gguf"]:
        assert (score["n"], score["acc"], score["flips"]) == (N, 0.75, None), score["task"]
    for score in found["dog.gguf"]:
        assert (score["acc"], score["lost"], score["gained"], score["flips"]) == (0.25, 9, 3, 1.0), score["task"]
        assert score["p"] == pytest.approx(stats.binomtest(3, 12).pvalue)
    assert [round(s["chance"], 3) for s in found["fox.gguf"]] == [0.2, 0.25, 0.25, 0.25, 0.5]
    for task in set(TASKS) - {"hellaswag"}:  # which the tool shuffles
        read = answers.read(out / ".ggufkit" / "measurements" / f"fox.{task}.answers.json")
        assert list(read.answers) == RIGHT
        assert read.places[3] == "line 4"

    again = cli("tasks", dog, fox, "--tasks", asked, "--out", out, "--threads", 1, "--explain")
    assert again.code == 0, again.err
    assert "answers.json: made" not in again.err  # another base, or none, asks nothing again
    assert "HellaSwag: 12 questions, chance 25.0%" in again.out
    assert "flips" not in again.out


def test_a_build_asks_all_its_files(fox: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows("arc")))
    out, how = (
        tmp_path / "out",
        {"types": "q8_0", "eval": False, "bench": False, "tasks": str(tmp_path / "mine.jsonl")},
    )
    plan = api.plan(fox, out=out, quiet=True, **how)  # type: ignore[arg-type]
    assert "tasks: mine" in [step.doing for step in plan.steps]
    made = api.build(fox, out=out, quiet=True, tasks_samples=8, **how)  # type: ignore[arg-type]
    assert list(made.df.columns)[-3:] == ["mine_acc", "mine_acc_stderr", "mine_flips"]
    assert made.df["mine_flips"].isna().tolist() == [True, False]
    assert made.rows[1].tasks[0].n == 8
    assert made.warnings == ()
    table = api.load_results(out)
    assert table["mine_acc"].tolist() == made.df["mine_acc"].tolist()
    report = (out / "report.md").read_text()
    assert "**mine: 8 questions, chance 20.0%**" in report
    assert "--tasks mine=mine.jsonl --tasks-samples 8" in report
    assert '<h2 id="tasks">Tasks</h2>' in (out / "report.html").read_text()
    assert api.build(fox, out=out, quiet=True, tasks_samples=8, **how).made == 0  # type: ignore[arg-type]
    assert api.build(fox, out=out, quiet=True, **{**how, "tasks": ()}).made == 0  # type: ignore[arg-type]


def test_questions_longer_than_the_context_get_a_larger_one(fox: Path, tmp_path: Path) -> None:
    long = " ".join(["🐙"] * 600)  # three tokens each, of five bytes
    asked = [{**_arc(i, "fox"), "question": long} for i in range(2)]
    (tmp_path / "long.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked))
    done = cli("tasks", fox, "--tasks", tmp_path / "long.jsonl", "--threads", 1)
    assert done.code == 0, done.err
    assert "100.0%" in done.out
    made = read_manifest(fox.parent / ".ggufkit" / "measurements" / "fox.long.answers.json")
    assert made is not None
    sequences, context = (int(made.argv[0][made.argv[0].index(option) + 1]) for option in ("-np", "-c"))
    assert sequences * context > 1600


def test_a_bad_row_is_one_message(fox: Path, tmp_path: Path) -> None:
    bad = rows("mmlu")
    bad[4]["answer"] = "E"
    (tmp_path / "mmlu.jsonl").write_text("".join(json.dumps(row) + "\n" for row in bad))
    said = fails(3, "tasks", fox, "--tasks", f"mmlu={tmp_path / 'mmlu.jsonl'}")
    assert "mmlu.jsonl, line 5: its answer is 'E', no number from 0" in said
    assert "There is no task 'nonsense'" in fails(2, "tasks", fox, "--tasks", "nonsense")


def test_tables_with_columns_are_read_whole(tmp_path: Path, private_cache: Path) -> None:
    pa = pytest.importorskip("pyarrow", reason="reading Parquet needs pyarrow")
    import pyarrow.parquet as pq

    from ggufkit.core.progress import SilentReporter
    from ggufkit.texts.tasks import questions
    from ggufkit.texts.tasks.questions import Drawn, TaskSpec

    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows("arc")))
    table = pa.Table.from_pylist(rows("arc"))
    pq.write_table(table, tmp_path / "a.parquet")
    with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    files = [tmp_path / f"a.{kind}" for kind in ("jsonl", "parquet", "arrow")]
    found = [questions.resolve(TaskSpec("mine", file), Drawn(), SilentReporter()) for file in files]
    assert {data.sha256 for data in found} == {found[0].sha256}
    assert found[1].questions[4].place == "row 5"
