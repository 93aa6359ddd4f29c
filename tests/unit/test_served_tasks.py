"""Answers that a served model writes: rows of the data, calls of tools, what the harness says."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ggufkit.core.errors import CorpusError, InputError, MissingExtra, ToolError, ToolOutputError
from ggufkit.core.progress import SilentReporter
from ggufkit.measure.tasks import harness, tool_calls
from ggufkit.serving.endpoint import Endpoint
from ggufkit.texts.tasks import generated, questions
from ggufkit.texts.tasks.known import BUNDLED, GSM8K, IFEVAL, TOOLS
from ggufkit.texts.tasks.questions import Drawn, TaskData
from tests.openai_server import StandIn, speaking

CITY = {"type": "string", "enum": ["Paris", "London"]}
WEATHER = {
    "type": "function",
    "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {"city": CITY}}},
}
CALL = {"name": "get_weather", "arguments": {"city": "Paris"}}
ROWS: dict[str, dict[str, Any]] = {
    GSM8K: {"question": "How many are 2 and 3?", "answer": "2 + 3 = 5\n#### 5"},
    IFEVAL: {
        "key": 7, "prompt": "Say it without commas.", "instruction_id_list": ["punctuation:no_comma"],
        "kwargs": [{"num_words": None}],
    },
    TOOLS: {"prompt": "Is it warm in Paris?", "tools": [WEATHER], "calls": [CALL]},
}  # fmt: skip


def asked(tmp_path: Path, *rows: Any) -> TaskData:
    file = tmp_path / "mine.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return questions.resolve(questions.parse([f"mine={file}"])[0], Drawn(None), SilentReporter())


@pytest.mark.parametrize("mode", ROWS)
def test_rows_are_known_by_their_columns(mode: str, tmp_path: Path, private_cache: Path) -> None:
    data = asked(tmp_path, ROWS[mode], ROWS[mode])
    assert (data.mode, data.chance, len(data.questions), data.is_generated) == (mode, 0.0, 2, True)
    written = [json.loads(line) for line in data.path.read_text(encoding="utf-8").splitlines()]
    assert written == [generated.read(question) for question in data.questions]
    assert written[0] == (ROWS[mode] if mode != IFEVAL else {**ROWS[mode], "kwargs": [{}]})


@pytest.mark.parametrize(
    ("mode", "change", "said"),
    [
        (GSM8K, {"answer": "five"}, "its answer has no result behind ####"),
        (GSM8K, {"question": " "}, "its question is no text"),
        (IFEVAL, {"instruction_id_list": []}, "no names of instructions"),
        (IFEVAL, {"kwargs": []}, "not one object for each of 1 instructions"),
        (TOOLS, {"tools": [{"name": "x"}]}, "no functions of OpenAI's protocol"),
        (TOOLS, {"calls": [{"name": "other", "arguments": {}}]}, "name of a tool that it offers"),
    ],
)
def test_a_bad_row_is_named(
    mode: str, change: dict[str, Any], said: str, tmp_path: Path, private_cache: Path
) -> None:
    with pytest.raises(CorpusError, match=f"line 2: .*{said}"):
        asked(tmp_path, ROWS[mode], ROWS[mode] | change)


def test_the_requests_that_come_along(private_cache: Path) -> None:
    data = questions.resolve(questions.parse(["tools"])[0], Drawn(None), SilentReporter())
    rows = [generated.read(question) for question in data.questions]
    assert len(rows) == len(BUNDLED.read_text(encoding="utf-8").splitlines()) > 50
    assert data.title == "Tool calls"
    assert {len(row["calls"]) for row in rows} == {0, 1}
    for row in rows:
        known = {tool["function"]["name"]: tool["function"]["parameters"] for tool in row["tools"]}
        for call in row["calls"]:
            assert set(call["arguments"]) == set(known[call["name"]]["required"])


def test_who_judges_is_asked_for_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(
        MissingExtra, match="Judging what a model writes needs what is not installed: lm_eval"
    ) as told:
        questions.require_readable(questions.parse(["gsm8k"]))
    assert "ggufkit[tasks]" in str(told.value.hint)


def made(name: str, arguments: object) -> dict[str, Any]:
    return {"function": {"name": name, "arguments": json.dumps(arguments)}}


@pytest.mark.parametrize(
    ("calls", "right"),
    [
        ([made("f", {"n": 2, "who": " maria "})], True),
        ([made("f", {"n": 2.0, "who": "Maria"})], True),
        ([made("f", {"n": 3, "who": "Maria"})], False),
        ([made("f", {"n": 2})], False),
        ([made("f", {"n": 2, "who": "Maria", "more": 1})], False),
        ([made("g", {"n": 2, "who": "Maria"})], False),
        ([made("f", {"n": 2, "who": "Maria"})] * 2, False),
        ([{"function": {"name": "f", "arguments": "{"}}], False),
        ([], False),
        (None, False),
    ],
)
def test_a_call_is_right(calls: Any, right: bool) -> None:
    assert tool_calls.is_right(calls, [{"name": "f", "arguments": {"n": 2, "who": "Maria"}}]) is right
    assert tool_calls.is_right(calls, []) is not bool(calls)


def test_a_truth_value_is_no_number() -> None:
    assert not tool_calls.is_right([made("f", {"on": 1})], [{"name": "f", "arguments": {"on": True}}])


def asking(data: TaskData, tmp_path: Path) -> Any:
    workspace = SimpleNamespace(log=lambda name: tmp_path / f"{name}.log")
    return SimpleNamespace(data=data, session=SimpleNamespace(reporter=SilentReporter(), workspace=workspace))


def test_calls_of_a_server(tmp_path: Path, private_cache: Path) -> None:
    london = {**ROWS[TOOLS], "calls": [{"name": "get_weather", "arguments": {"city": "London"}}]}
    data = asked(tmp_path, ROWS[TOOLS], london, {**ROWS[TOOLS], "calls": []})
    with speaking() as endpoint:
        assert tool_calls.answers(endpoint, asking(data, tmp_path)) == (True, False, False)
    with speaking(StandIn(("error",))) as endpoint:
        assert tool_calls.answers(endpoint, asking(data, tmp_path)) == (False, False, False)
    with speaking(StandIn(("busy",))) as endpoint, pytest.raises(ToolError, match="does not answer: 503"):
        tool_calls.answers(endpoint, asking(data, tmp_path))
    with speaking(StandIn(tools=False)) as endpoint, pytest.raises(InputError, match="knows no tools"):
        tool_calls.answers(endpoint, asking(data, tmp_path))


def test_the_harness_is_told_no_name_with_commas(tmp_path: Path) -> None:
    argv = harness._argv(Endpoint("127.0.0.1", 8080, "a,base_url=x"), tmp_path)
    told = argv[argv.index("--model_args") + 1]
    assert (
        dict(part.split("=") for part in told.split(","))["base_url"]
        == "http://127.0.0.1:8080/v1/chat/completions"
    )


def test_what_the_harness_says(tmp_path: Path) -> None:
    home = tmp_path / "results" / "m"
    home.mkdir(parents=True)
    samples = [
        {"doc_id": i, "filter": chosen, "exact_match": float(i == 1 and chosen == "b")}
        for i in (1, 0)
        for chosen in "ab"
    ]
    (home / "samples_x.jsonl").write_text("\n".join(map(json.dumps, samples)), encoding="utf-8")
    assert harness._judged(tmp_path, "exact_match", "b", 2) == (False, True)
    with pytest.raises(ToolOutputError, match="judged 2 of 3 answers"):
        harness._judged(tmp_path, "exact_match", "b", 3)
