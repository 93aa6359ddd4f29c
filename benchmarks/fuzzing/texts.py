"""Texts to evaluate and to calibrate on."""

from __future__ import annotations

from pathlib import Path

from benchmarks.fuzzing.mutate import mutate_json, mutate_lines
from benchmarks.fuzzing.reader import Reader, of_file
from ggufkit.texts import corpus
from ggufkit.texts.calibration import read_texts
from ggufkit.texts.dataset_rows import read_field

_ROWS = [b'[{"text": "a b", "id": 1}, {"text": "c\\nd", "id": null}]', b'["a", "b"]']
_LINES = [b'{"text": "a b", "id": 1}\n{"text": "c", "id": 2}\n\n{"text": "d"}\n']


def readers() -> list[Reader]:
    """Rows in JSON and JSONL, and plain text."""
    return [
        Reader("rows", _ROWS, of_file(_table, "a.json"), mutate_json, 2),
        Reader("lines", _LINES, of_file(_table, "a.jsonl"), mutate_lines, 2),
        Reader("calibration", _LINES, of_file(_texts, "a.ndjson"), mutate_lines),
        Reader("text", [b"A text.\nOf two lines.\n"], of_file(corpus.open_text, "a.txt"), weight=0.5),
    ]


def _table(file: Path) -> None:
    for text in read_field(file, None):
        text.encode()


def _texts(file: Path) -> None:
    for text in read_texts(file):
        text.encode()
