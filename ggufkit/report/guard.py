"""What may be written over: files that ggufkit notes to have written, while it has what they were made from."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from ggufkit.core.errors import InputError
from ggufkit.core.jsonfile import read_json
from ggufkit.core.manifest import write_atomically
from ggufkit.core.part_names import stem_of
from ggufkit.measure import bench, divergence, perplexity, similarity
from ggufkit.steps.step import Workspace

_COLUMNS = {"name", "variant", "type", "file", "size_bytes", "n_params", "bpw"}
_LONG = {"file", "n_ctx", "kv_type", "metric", "value", "stderr"}
_MEASURED = ("ppl", "kld_mean", "cosine_mean", "pp_tps", "tg_tps")
_KINDS = (divergence.STEP, perplexity.STEP, similarity.STEP, bench.STEP)
_HEADINGS = {
    "report.md": ("## What each type really holds", "## How it was measured"),
    "report.html": ('<h2 id="results">', '<script type="application/json" id="choices">'),
}


def read_note(root: Path, name: str) -> dict[str, Any]:
    """What a result directory notes of the files that were written last; empty if nothing."""
    try:
        return read_json(Workspace(root).private / name, dict[str, Any])
    except InputError:
        return {}


def write_note(root: Path, name: str, note: Mapping[str, Any]) -> None:
    """Note in a result directory what was written."""
    private = Workspace(root).private
    private.mkdir(exist_ok=True)
    write_atomically(private / name, json.dumps(note) + "\n")


def require_ours(root: Path, names: Collection[str], noted: Collection[str]) -> None:
    """Refuse to write over a file that ggufkit never wrote. What it wrote once, and was edited, it may.

    Args:
        noted: names of files that ggufkit notes to have written here; they need not have come along.

    Raises:
        InputError: a table without ggufkit's columns, a report that is neither noted nor like one.
    """
    foreign = [n for n in names if (root / n).exists() and not _is_ours(root / n, n in noted)]
    if foreign:
        raise InputError(
            f"{', '.join(str(root / name) for name in foreign)} exists already, and ggufkit did not write it.",
            hint="Move it away; with `ggufkit build` you can also choose another --out, or overwrite it with --force.",
        )


def _is_ours(file: Path, noted: bool) -> bool:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return False
    if file.suffix == ".csv":
        columns = _LONG if file.name == "measurements.csv" else _COLUMNS
        return set(text.partition("\n")[0].strip().replace('"', "").split(",")) >= columns
    if file.suffix == ".json":
        rows = _rows(file)
        return bool(rows) and all(row.keys() >= _COLUMNS for row in rows)
    return noted or all(heading in text for heading in _HEADINGS[file.name])


def require_kept(root: Path) -> None:
    """Refuse to write tables without measurements that the present ones hold.

    Raises:
        InputError: `results.json` holds measurements of a file that is there, and .ggufkit none of that file.
    """
    kept = Workspace(root).measurements
    measured = [row for row in _rows(root / "results.json") if any(row.get(key) is not None for key in _MEASURED)]
    there = {file.name: file for file in root.glob("*") if file.is_file()}
    files = [there[name] for row in measured if (name := str(row.get("file"))) in there]
    lost = [file.name for file in files if not _has_measurements(kept, stem_of(file))]
    if lost:
        raise InputError(
            f"{kept} lacks the measurements of {lost[0]} that {root / 'results.json'} holds; writing it would lose them.",
            hint="Copy the hidden directory .ggufkit along with the files (cp -r DIR/. NEW); or remove results.json "
            "and measure again.",
        )


def _has_measurements(kept: Path, stem: str) -> bool:
    return any((kept / f"{stem}.{kind}.json").is_file() for kind in _KINDS)


def _rows(file: Path) -> list[dict[str, Any]]:
    """The rows of a `results.json`; none where it cannot be read."""
    try:
        return read_json(file, list[dict[str, Any]])
    except InputError:
        return []
