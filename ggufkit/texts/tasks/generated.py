"""Rows of data sets whose answers the served model writes: GSM8K, IFEval, requests with tools. Pure.

A question of them is its row, as one line of JSON: what judges the answer reads it again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ggufkit.llama.task_files import BadRow, Question

Row = Mapping[str, Any]
_RESULT = re.compile(r"#### *-?[0-9][0-9.,]*")


def gsm8k(row: Row) -> Question:
    """A problem, and a solution that ends with its result."""
    question, answer = _text(row, "question"), _text(row, "answer")
    if _RESULT.search(answer) is None:
        raise BadRow("its answer has no result behind ####")
    return _question({"question": question, "answer": answer})


def ifeval(row: Row) -> Question:
    """A prompt, the instructions in it by name, and what each of them is told; values that are not set are left out."""
    names, told = row.get("instruction_id_list"), row.get("kwargs")
    if not isinstance(names, Sequence) or not names or not all(isinstance(name, str) for name in names):
        raise BadRow("its instruction_id_list are no names of instructions")
    if not isinstance(told, Sequence) or len(told) != len(names) or not all(isinstance(k, Mapping) for k in told):
        raise BadRow(f"its kwargs are not one object for each of {len(names)} instructions")
    set_ones = [{key: value for key, value in one.items() if value is not None} for one in told]
    key = row.get("key", 0)
    prompt = _text(row, "prompt")
    return _question({"key": key, "prompt": prompt, "instruction_id_list": [*names], "kwargs": set_ones})


def tools(row: Row) -> Question:
    """A request, the tools that may be called (as OpenAI's protocol has them), and the calls that are right."""
    offered, calls = row.get("tools"), row.get("calls")
    names = [_name(tool) for tool in offered] if isinstance(offered, Sequence) else []
    if not names or None in names:
        raise BadRow("its tools are no functions of OpenAI's protocol")
    if not isinstance(calls, Sequence) or not all(_is_call(call, names) for call in calls):
        raise BadRow("its calls are not each the name of a tool that it offers, and arguments")
    return _question({"prompt": _text(row, "prompt"), "tools": offered, "calls": calls})


def read(question: Question) -> dict[str, Any]:
    """The row that a question is."""
    row: dict[str, Any] = json.loads(question.context)
    return row


def _question(row: Row) -> Question:
    return Question(json.dumps(row, ensure_ascii=False), (), 0)


def _text(row: Row, name: str) -> str:
    value = row.get(name)
    if not isinstance(value, str) or not value.strip():
        raise BadRow(f"its {name} is no text")
    return value


def _name(tool: object) -> str | None:
    function = tool.get("function") if isinstance(tool, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    return name if isinstance(name, str) else None


def _is_call(call: object, names: Sequence[str | None]) -> bool:
    return isinstance(call, Mapping) and call.get("name") in names and isinstance(call.get("arguments"), Mapping)
