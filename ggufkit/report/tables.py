"""Records <-> pandas, and the files that pandas writes."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path

import pandas as pd

from ggufkit.core import escape
from ggufkit.core.errors import InputError
from ggufkit.core.manifest import write_atomically
from ggufkit.core.records import VARYING, Json, ResultRow

_KINDS = {f.name: str(f.type).removesuffix(" | None") for f in fields(ResultRow) if f.name not in VARYING}
COLUMNS = tuple(_KINDS)
"""Of every table; those of metrics that packages add, and of tasks, come after them."""
_DTYPES = {name: {"int": "Int64", "float": "float64", "str": "string"}[kind] for name, kind in _KINDS.items()}
_MOST_COLUMNS = 1000
_LATER = ("cosine_mean", "cosine_stderr", "cosine_min", "kv_type", "format")
"""Columns that tables of version 0.1.0 do not have."""
_TEXTS = tuple(name for name, dtype in _DTYPES.items() if dtype == "string")


def frame(rows: Sequence[ResultRow]) -> pd.DataFrame:
    """Rows as a DataFrame with the contract's columns and dtypes: Int64, float64 and string, missing as NA."""
    whole = _whole(rows)
    names = dict.fromkeys([*COLUMNS, *(name for row in whole for name in row)])
    added = {name: "float64" for name in names if name not in COLUMNS}
    table: pd.DataFrame = pd.DataFrame(whole, columns=list(names)).astype(_DTYPES | added)
    return table


def _whole(rows: Sequence[ResultRow]) -> list[dict[str, Json]]:
    """The columns of each row, those that only some of them have among them."""
    found = [row.columns() for row in rows]
    names = dict.fromkeys(name for row in found for name in row)
    return [{name: row.get(name) for name in names} for row in found]


def to_json(rows: Sequence[ResultRow]) -> str:
    """Rows as a JSON list; what was not measured is null."""
    return json.dumps(_whole(rows), indent=1) + "\n"


def to_csv(rows: Sequence[ResultRow]) -> str:
    """Rows as CSV; what was not measured is empty, and no text in it is a spreadsheet's formula."""
    return as_csv(frame(rows))


def as_csv(table: pd.DataFrame) -> str:
    """A table with these columns, and others besides, as CSV."""
    return _with_texts(table, escape.csv).to_csv(index=False, lineterminator="\n")


def from_csv(text: str) -> pd.DataFrame:
    """The table that `to_csv` wrote, as `frame` makes it. Raises ValueError or KeyError for any other text."""
    _require_columns(text)
    read = pd.read_csv(io.StringIO(text), dtype=_DTYPES, keep_default_na=False, na_values=[""])
    missing = [name for name in _LATER if name not in read]
    whole = read.assign(**{name: pd.Series(dtype=_DTYPES[name]) for name in missing})
    whole = whole.assign(format=whole["format"].fillna(ResultRow.format))
    added = [name for name in whole if name not in COLUMNS]
    whole = whole.assign(**{name: pd.to_numeric(whole[name], errors="coerce").astype("float64") for name in added})
    return _with_texts(whole[[*COLUMNS, *added]], escape.from_csv)


def _require_columns(text: str) -> None:
    """Refuse a first line that lacks a column or has thousands, and rows of another length, which pandas would shift."""
    lines = csv.reader(io.StringIO(text))
    names = next(lines, [])
    missing = [name for name in COLUMNS if name not in names and name not in _LATER]
    if missing or len(names) > _MOST_COLUMNS:
        raise ValueError(f"it has no column {missing[0]}" if missing else f"it has {len(names):,} columns")
    odd = next((row for row in lines if row and len(row) != len(names)), None)
    if odd is not None:
        raise ValueError(f"line {lines.line_num} has {len(odd)} cells for {len(names)} columns")


def _with_texts(table: pd.DataFrame, change: Callable[[str], str]) -> pd.DataFrame:
    changed: pd.DataFrame = table.assign(
        **{t: table[t].map(change, na_action="ignore").astype("string") for t in _TEXTS}
    )
    return changed


def texts(rows: Sequence[ResultRow]) -> dict[str, str]:
    """`results.csv` and `results.json`, by name."""
    return {"results.csv": to_csv(rows), "results.json": to_json(rows)}


def save(rows: Sequence[ResultRow], root: Path) -> None:
    """Write `results.csv` and `results.json`."""
    for name, text in texts(rows).items():
        write_atomically(root / name, text)


def load_results(directory: str | Path) -> pd.DataFrame:
    """Read a result directory's table.

    Returns:
        One row per GGUF, with the contract's columns and dtypes; what was not measured is NA.

    Raises:
        InputError: the directory has no `results.csv`, or one that this version cannot read.
    """
    file = Path(directory) / "results.csv"
    if not file.is_file():
        raise InputError(f"{file} does not exist.", hint="Make it with `ggufkit build` or `ggufkit report`.")
    try:
        return from_csv(file.read_bytes().decode())
    except (OSError, ValueError, TypeError, KeyError, OverflowError, csv.Error) as error:
        raise InputError(
            f"{file} cannot be read: {error}.", hint="Make it again with `ggufkit report`."
        ) from error
