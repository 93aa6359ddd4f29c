"""What models are asked, what they answered, and what each token gave."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.fuzzing.mutate import mutate, mutate_json, mutate_lines
from benchmarks.fuzzing.reader import ROOT, Reader, of_file, of_text
from ggufkit.core.process import ToolOutput
from ggufkit.formats import known
from ggufkit.llama import task_files, task_log
from ggufkit.llama.task_files import HELLASWAG, MODES, MULTIPLE_CHOICE, SUFFIXES, WINOGRANDE, Question
from ggufkit.measure import token_scores
from ggufkit.measure.paired import Scores, Tokens
from ggufkit.models import sources
from ggufkit.texts.chats import read_chats
from ggufkit.texts.tasks import questions
from ggufkit.texts.tasks.questions import TaskSpec
from tests import tiny

_LOGS = {HELLASWAG: "hellaswag", WINOGRANDE: "winogrande", MULTIPLE_CHOICE: "arc"}
_ANSWERS = {
    HELLASWAG: ("b c", "d e", "f g", "h i"),
    WINOGRANDE: ("Ann", "Joe"),
    MULTIPLE_CHOICE: ("b", "c", "d", "e", "f"),
}
_RIGHT = {HELLASWAG: [2] * 12, WINOGRANDE: [1, 0, 0, 0, 0, 0, 1, 1, 0, 1, 0, 1], MULTIPLE_CHOICE: [2] * 12}
"""As in the recorded logs."""
_ROWS = (
    {"ctx": "a b", "endings": ["c", "d", "e", "f"], "label": "1"},
    {"sentence": "_ saw the dog in the garden.", "option1": "Ann", "option2": "Joe", "answer": "2"},
    {"question": "a?", "choices": {"text": ["b", "c"], "label": ["A", "B"]}, "answerKey": "B"},
    {"question": "a?", "choices": ["b", "c", "d", "e"], "answer": 3},
)
_CSV = b"sentence,option1,option2,answer\n_ saw the dog in the garden.,Ann,Joe,2\n"
_CHATS = b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "tools": []}\n'
_METHODS = (
    {"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemm", "zero_point": True},
    {"quant_method": "gptq", "bits": 4, "group_size": 128, "sym": True, "desc_act": False},
    {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    {"quant_method": "compressed-tensors", "format": "float-quantized", "config_groups": {"group_0": {
        "targets": ["Linear"], "weights": {"num_bits": 8, "type": "float", "strategy": "channel"}}}},
)  # fmt: skip


def readers(home: Path) -> list[Reader]:
    """Questions in every form, answers, conversations, scores of tokens, quantized checkpoints' configurations."""
    rows = [json.dumps([row]).encode() for row in _ROWS]
    lines = [json.dumps(row).encode() + b"\n" for row in _ROWS]
    return [
        *(Reader(f"{m} file", [task_files.write(_asked(m), m)], _whole(m), mutate, 0.5) for m in MODES),
        *(Reader(f"{m} answers", [_log(m)], of_text(_answers(m)), mutate_lines, 0.5) for m in MODES),
        Reader("task rows", rows, of_file(_rows, "a.json"), mutate_json),
        Reader("task lines", lines, of_file(_rows, "a.jsonl"), mutate_lines, 0.5),
        Reader("task table", [_CSV], of_file(_rows, "a.csv"), mutate_lines, 0.5),
        Reader("conversations", [_CHATS], of_file(read_chats, "a.jsonl"), mutate_lines),
        Reader("token scores", [_scores(home)], of_file(_kept, "a.scores"), mutate, 0.5),
        Reader("quantization config", [json.dumps(m).encode() for m in _METHODS], _method(home), mutate_json, 0.5),
    ]


def _asked(mode: str) -> list[Question]:
    context = "_ saw the dog in the garden." if mode == WINOGRANDE else "a"
    return [Question(context, _ANSWERS[mode], right, f"row {i}") for i, right in enumerate(_RIGHT[mode])]


def _log(mode: str) -> bytes:
    return (ROOT / "tests" / "logs" / f"tasks-{_LOGS[mode]}-cpu-planted.log").read_bytes()


def _answers(mode: str) -> Callable[[str], None]:
    asked = _asked(mode)

    def read(text: str) -> None:
        output = ToolOutput(("llama-perplexity", "-m", "x.gguf"), 0, text, "", 1.0)
        task_log.tasks_done(text)
        task_log.tokens_needed(output)
        assert len(task_log.parse_answers(output, mode, asked)) == len(asked)

    return read


def _whole(mode: str) -> Callable[[bytes, Path], object]:
    """A file that llama-perplexity reads, as a user's own."""
    return of_file(_rows, f"a{SUFFIXES[mode]}")


def _rows(file: Path) -> None:
    _, found, _ = questions._read(TaskSpec("own", file), file)
    assert all(0 <= one.right < len(one.answers) or not one.answers for one in found)


def _scores(home: Path) -> bytes:
    values = np.linspace(0.0, 1.0, 24).reshape(4, 6)
    token_scores.save(home / "a.scores", "f" * 64, Scores(Tokens("a" * 64, 16, 4, "b" * 64), values, values))
    return (home / "a.scores").read_bytes()


def _kept(file: Path) -> None:
    found = token_scores.load(file, "f" * 64)
    assert found is None or np.isfinite(found.kld).all()


def _method(home: Path) -> Callable[[bytes, Path], object]:
    """A checkpoint whose configuration says how it is quantized."""
    model = tiny.write_llama(home / "quantized", width=64, layers=1)
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))

    def read(data: bytes, _place: Path) -> object:
        said = b'{"quantization_config": ' + data + b", " + json.dumps(config).encode()[1:]
        (model / "config.json").write_bytes(said)
        found = sources.resolve(str(model))
        assert not isinstance(found, Path)
        return known.subject(found)  # type: ignore[arg-type]

    return read
