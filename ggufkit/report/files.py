"""Tables (`results.csv`, `results.json`, `measurements.csv`) and reports (`report.md`, `report.html`) of a result directory:
written, and known to be current."""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ggufkit.core.manifest import manifest_path, write_atomically
from ggufkit.core.records import F16, ResultRow
from ggufkit.llama import kv_cache
from ggufkit.recipes.type_recipe import recipe_path
from ggufkit.report import guard, projectors
from ggufkit.report.choose import MemoryBudget
from ggufkit.report.data import load_entries
from ggufkit.report.timeline import spans
from ggufkit.steps.step import Workspace
from ggufkit.version import __version__

if TYPE_CHECKING:
    from ggufkit.report.summary import Summary

VERSION = 4
FILES = ("results.csv", "results.json", "measurements.csv", "report.md", "report.html")
_NOTE = "report.json"


def is_current(rows: Sequence[ResultRow], root: Path, budget: MemoryBudget | None = None) -> bool:
    """Whether all tables and reports are there, unchanged, and say what was measured."""
    try:
        return guard.read_note(root, _NOTE) == _state(rows, root, budget or MemoryBudget())
    except OSError:
        return False


def load() -> None:
    """Import what `write` needs, which takes longer than to write: for who has a processor to spare before."""
    for name in (
        "matplotlib.figure",
        "matplotlib.backends.backend_svg",
        "ggufkit.report.html",
        "ggufkit.report.tables",
    ):
        importlib.import_module(name)


def write(rows: Sequence[ResultRow], root: Path, budget: MemoryBudget | None = None) -> None:
    """Write the tables and reports of a result directory.

    Args:
        budget: the memory and context that the report names the best file for.
    """
    budget = budget or MemoryBudget()
    _write(render(rows, root, budget), rows, root, budget)


def render(rows: Sequence[ResultRow], root: Path, budget: MemoryBudget) -> dict[str, str]:
    """The tables and reports of a result directory by name, of which nothing is written."""
    from ggufkit.report import conditions, tables
    from ggufkit.report.html import render_html
    from ggufkit.report.markdown import render_markdown

    summary = summary_of(rows, root, budget)
    kinds = (conditions.collect, conditions.of_checkpoints, conditions.of_tasks)
    further = conditions.to_csv([measured for of_kind in kinds for measured in of_kind(rows, root)])
    return {
        **tables.texts(rows),
        "measurements.csv": further,
        "report.md": render_markdown(summary),
        "report.html": render_html(summary),
    }


def _write(texts: Mapping[str, str], rows: Sequence[ResultRow], root: Path, budget: MemoryBudget) -> None:
    for name, text in texts.items():
        write_atomically(root / name, text)
    guard.write_note(root, _NOTE, _state(rows, root, budget))


def require_writable(root: Path) -> None:
    """Whether tables and reports may be written (over).

    Raises:
        InputError: there are some that ggufkit never wrote, or that hold measurements which are kept nowhere else.
    """
    guard.require_ours(root, FILES, guard.read_note(root, _NOTE))
    guard.require_kept(root)


def refresh(rows: Sequence[ResultRow], root: Path, *, look_only: bool = False) -> dict[str, str]:
    """Write those tables and reports again that are there and do not say what was measured, for the same memory.

    Args:
        look_only: write nothing.

    Returns:
        What was, or would be, written, by name.

    Raises:
        InputError: as `require_writable`.
    """
    budget = _noted_budget(root)
    if not any((root / name).exists() for name in FILES) or is_current(rows, root, budget):
        return {}
    require_writable(root)
    texts = render(rows, root, budget)
    if not look_only:
        _write(texts, rows, root, budget)
    return texts


def summary_of(rows: Sequence[ResultRow], root: Path, budget: MemoryBudget | None = None) -> Summary:
    """What the reports of a result directory say: which file to take, what helped."""
    from ggufkit.report import conditions
    from ggufkit.report.summary import summarize

    made, measured = spans(root, rows[0].name if rows else ""), conditions.collect(rows, root)
    return summarize(load_entries(rows, root), budget or MemoryBudget(), made, measured, projectors.collect(root))


def _noted(budget: MemoryBudget) -> dict[str, int | str | None]:
    """A budget as notes hold it, under the names that they always had."""
    cache = {} if budget.kv_type == F16 else {"kv_type": budget.kv_type}
    return {"memory": budget.memory_bytes, "n_ctx": budget.n_ctx, **cache}


def _noted_budget(root: Path) -> MemoryBudget:
    match guard.read_note(root, _NOTE).get("wish"):
        case {"memory": int() | None as memory_bytes, "n_ctx": int() as n_ctx, **rest}:
            kv_type = str(rest.get("kv_type"))
            return MemoryBudget(memory_bytes, n_ctx, kv_type if kv_type in kv_cache.TYPES else F16)
    return MemoryBudget()


def _state(rows: Sequence[ResultRow], root: Path, budget: MemoryBudget) -> dict[str, Any]:
    """Hashes of what the reports were made from, and of the reports."""
    said = json.dumps([VERSION, __version__, _noted(budget), [row.columns() for row in rows]])
    beside = [
        *(manifest_path(root / row.file) for row in rows),
        *(recipe_path(root / row.file) for row in rows),
        *projectors.manifests(root),
        *sorted(Workspace(root).measurements.rglob("*.json")),
        *sorted(Workspace(root).measurements.rglob("*.scores")),
    ]
    inputs = hashlib.sha256(said.encode())
    for file in beside:
        inputs.update(file.read_bytes() if file.is_file() else b"")
    made = {name: hashlib.sha256((root / name).read_bytes()).hexdigest() for name in FILES}
    return {"inputs": inputs.hexdigest(), "wish": _noted(budget), **made}
