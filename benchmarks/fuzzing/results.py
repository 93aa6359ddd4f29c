"""What ggufkit itself wrote, and somebody else changed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from benchmarks.fuzzing.mutate import mutate_json, mutate_lines
from benchmarks.fuzzing.reader import Read, Reader, of_file
from ggufkit.core.progress import SilentReporter
from ggufkit.llama.build import STAMP, read_stamp
from ggufkit.measure.chat import read_reply
from ggufkit.refine.state import State
from ggufkit.report import card, guard, results, tables
from ggufkit.report.data import load_entries
from ggufkit.report.timeline import spans
from tests.fake_results import FAKES, write_results

_STAMP = {"commit": "0c1e", "backend": "cpu", "flags": ["-DX=1"], "version": "1", "source": "/a", "seconds": 1.5}
_REPLY = {
    "text": "a", "tokens": [1, 2], "n_prompt": 3, "templated": True, "valid_utf8": True, "load_s": 0.1,
    "first_token_s": 0.2, "tokens_per_s": None, "full": False,
}  # fmt: skip
_OUTCOME = {
    "tensor": "a",
    "type": "Q4_0",
    "before": 0.1,
    "after": 0.05,
    "kept": True,
    "reason": "",
    "expert": None,
}
_CARD = b"---\nlicense: mit\nbase_model: a/b\ntags: [a, b]\nlanguage:\n  - en\n---\n# Title\n"


def readers(home: Path) -> list[Reader]:
    """Manifests, measurements, tables, states, stamps."""
    root = write_results(home / "results", FAKES[:2])
    tables.save(results.collect(root), root)
    measured = root / ".ggufkit" / "measurements" / "tiny-Q8_0.divergence.json"
    made, how = root / "tiny-Q8_0.gguf.manifest.json", measured.with_name(measured.name + ".manifest.json")
    table, sheet = root / "results.json", root / "results.csv"
    return [
        Reader("manifest", [made.read_bytes()], _inside(root, made, _report), mutate_json, 0.5),
        Reader("measured by", [how.read_bytes()], _inside(root, how, _report), mutate_json, 0.5),
        Reader("measurements", [measured.read_bytes()], _inside(root, measured, _report), mutate_json, 0.5),
        Reader("results.json", [table.read_bytes()], _inside(root, table, _guarded), mutate_json),
        Reader("results.csv", [sheet.read_bytes()], of_file(_table, "results.csv"), weight=0.7),
        Reader("stamp", [_json(_STAMP)], of_file(_stamp, STAMP), mutate_json, 0.5),
        Reader("reply", [_json(_REPLY)], of_file(read_reply, "a.json"), mutate_json, 0.5),
        Reader("outcome", [_json(_OUTCOME) + b"\n" + bytes(64)], of_file(_state, "state"), mutate_lines, 0.5),
        Reader("card", [_CARD], of_file(card._read_fields, "README.md"), weight=0.5),
    ]


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


def _inside(root: Path, file: Path, read: Callable[[Path], object]) -> Read:
    """Read the directory while one file of it is the input."""
    kept = file.read_bytes()

    def run(data: bytes, _place: Path) -> object:
        file.write_bytes(data)
        try:
            return read(root)
        finally:
            file.write_bytes(kept)

    return run


def _report(directory: Path) -> None:
    said = SilentReporter()
    rows = results.collect(directory, said)
    json.dumps([row.columns() for row in rows], allow_nan=False)
    assert len(rows) == 2 or said.warnings, "a row vanished without a word"
    load_entries(rows, directory)
    spans(directory)


def _guarded(directory: Path) -> None:
    guard.require_ours(directory, ["results.json"], [])
    guard.require_kept(directory)


def _table(file: Path) -> None:
    tables.load_results(file.parent)


def _stamp(file: Path) -> None:
    read_stamp(file.parent)


def _state(file: Path) -> None:
    home = file.parent
    (home / "key").write_text("k")
    (home / "matrices").mkdir()
    moved = file.rename(home / "matrices" / "a")
    try:
        State(home, "k").outcomes()
        State(home, "k").load("a", None)
    finally:
        moved.rename(file)
        (home / "matrices").rmdir()
        (home / "key").unlink()
