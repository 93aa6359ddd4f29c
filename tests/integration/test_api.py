"""The Python API: its examples are true, with the command line's spellings."""

from __future__ import annotations

import doctest
import json
import os
import shutil
from pathlib import Path

import pytest

import ggufkit
from ggufkit.api import engines, making, measuring
from tests import tiny

FUNCTIONS = (
    "build", "plan", "convert", "imatrix", "quantize", "awq", "refine", "recipe", "perplexity", "tasks", "bench",
    "compare",
)  # fmt: skip
USED = (
    "convert",
    "imatrix",
    "quantize",
    "plan",
    "recipe",
    "perplexity",
    "tasks",
    "bench",
    "build",
    "compare",
    "awq",
    "refine",
)
"""In an order in which what one makes is there for the next."""


@pytest.fixture
def desk(converted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory in which the examples work: a checkpoint, its F16, a text, and a file to measure."""
    shutil.copytree(converted.parent / "tiny-llama", tmp_path / "tiny-llama")
    shutil.copyfile(converted, tmp_path / converted.name)
    tiny.text_file(tmp_path / "text.txt", 1500)
    question = {"question": "Who jumps?", "choices": ["the fox", "the dog"], "answerKey": "A"}
    (tmp_path / "questions.jsonl").write_text(json.dumps(question) + "\n")
    monkeypatch.chdir(tmp_path)
    ggufkit.quantize(converted.name, "q4_0", out="quantized", quiet=True)
    return tmp_path


def test_every_example_is_true(desk: Path) -> None:
    tests = {name: _example(name) for name in FUNCTIONS}
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    said: list[str] = []
    for name in USED:
        assert tests[name].examples, f"{name} has no example"
        runner.run(tests[name], out=said.append)
    assert "".join(said) == ""
    assert sorted(USED) == sorted(FUNCTIONS)


def _example(name: str) -> doctest.DocTest:
    home = next(m for m in (making, engines, measuring) if hasattr(m, name))
    function = getattr(home, name)
    assert getattr(ggufkit, name).__doc__
    return doctest.DocTestParser().get_doctest(function.__doc__ or "", vars(home) | {"os": os}, name, None, 0)
