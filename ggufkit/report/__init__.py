"""Tables and plots for people: `report.md` and `report.html`, beside `results.csv` and `results.json`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ggufkit.core.manifest import manifest_path, write_atomically
from ggufkit.core.records import ResultRow
from ggufkit.report import guard
from ggufkit.report.choose import Wish
from ggufkit.steps.step import Workspace
from ggufkit.version import __version__

VERSION = 2
FILES = ("results.csv", "results.json", "report.md", "report.html")


def is_current(rows: Sequence[ResultRow], root: Path, wish: Wish | None = None) -> bool:
    """Whether all tables and reports are there, unchanged, and say what was measured."""
    try:
        return _note(root) == _state(rows, root, wish or Wish())
    except OSError:
        return False


def write(rows: Sequence[ResultRow], root: Path, wish: Wish | None = None) -> None:
    """Write the tables and reports of a result directory.

    Args:
        wish: the memory and context that the report names the best file for.
    """
    from ggufkit.report import tables
    from ggufkit.report.data import load_entries
    from ggufkit.report.html import render_html
    from ggufkit.report.markdown import render_markdown
    from ggufkit.report.summary import summarize
    from ggufkit.report.timeline import spans

    wish = wish or Wish()
    tables.save(rows, root)
    summary = summarize(load_entries(rows, root), wish, spans(root, rows[0].name if rows else ""))
    write_atomically(root / "report.md", render_markdown(summary))
    write_atomically(root / "report.html", render_html(summary))
    _stamp(root).parent.mkdir(exist_ok=True)
    write_atomically(_stamp(root), json.dumps(_state(rows, root, wish)) + "\n")


def require_writable(root: Path) -> None:
    """Whether tables and reports may be written (over).

    Raises:
        InputError: there are some that ggufkit never wrote, or that hold measurements which are kept nowhere else.
    """
    guard.require_ours(root, FILES, _note(root))
    guard.require_kept(root)


def refresh(rows: Sequence[ResultRow], root: Path) -> None:
    """Write those tables and reports again that are there and do not say what was measured, for the same wish.

    Raises:
        InputError: as `require_writable`.
    """
    wish = _noted_wish(root)
    if any((root / name).exists() for name in FILES) and not is_current(rows, root, wish):
        require_writable(root)
        write(rows, root, wish)


def conclusions(rows: Sequence[ResultRow], root: Path, wish: Wish | None = None) -> list[str]:
    """What to take away, in sentences: which variant helped, and which file to take for a given memory."""
    from ggufkit.report.choose import answer
    from ggufkit.report.data import load_entries
    from ggufkit.report.verdict import verdicts

    sentences = [verdict.sentence for verdict in verdicts(rows)]
    if wish is None or wish.memory is None:
        return sentences
    return [*sentences, answer(load_entries(rows, root), wish)]


def _stamp(root: Path) -> Path:
    return Workspace(root).private / "report.json"


def _note(root: Path) -> dict[str, Any]:
    """What was written last."""
    try:
        note = json.loads(_stamp(root).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return note if isinstance(note, dict) else {}


def _noted_wish(root: Path) -> Wish:
    try:
        return Wish(**_note(root).get("wish", {}))
    except TypeError:
        return Wish()


def _state(rows: Sequence[ResultRow], root: Path, wish: Wish) -> dict[str, Any]:
    """Hashes of what the reports were made from, and of the reports."""
    said = json.dumps([VERSION, __version__, asdict(wish), [asdict(row) for row in rows]])
    beside = [
        *(manifest_path(root / row.file) for row in rows),
        *sorted(Workspace(root).measurements.glob("*.json")),
    ]
    inputs = hashlib.sha256(said.encode())
    for file in beside:
        inputs.update(file.read_bytes() if file.is_file() else b"")
    made = {name: hashlib.sha256((root / name).read_bytes()).hexdigest() for name in FILES}
    return {"inputs": inputs.hexdigest(), "wish": asdict(wish), **made}
