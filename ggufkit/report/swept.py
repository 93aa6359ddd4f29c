"""`sweep.csv`: every row of every results.csv of a sweep, with the model and the profile that it is of.

Its columns are those of results.csv behind `model` and `profile`, in one order; columns of metrics that packages add and of
tasks come last, and are empty where a model has none.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from ggufkit.core import escape
from ggufkit.core.errors import InputError
from ggufkit.core.records import ResultRow
from ggufkit.measure.paired import Scores
from ggufkit.report import tables

KEYS = ("model", "profile")
_HINT = "Give the sweep.csv of an earlier sweep."
_COMMIT = 12
"""Digits of a commit that tell it from all others; some write more of them, some less."""
_PRESET = re.compile(r"[A-Z0-9_]+")


@dataclass(frozen=True)
class Swept:
    """What a sweep found of one model under one profile.

    Args:
        profile: "" where the sweep has none.
        rows: of its results.csv.
        scores: what each token gave, of the files of which it is kept, by their names.
    """

    model: str
    profile: str
    rows: tuple[ResultRow, ...]
    scores: Mapping[str, Scores] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """What people call it."""
        return f"{self.model}, {self.profile}" if self.profile else self.model

    @property
    def base_sha256(self) -> str | None:
        """The hash of what its files are compared with; None where nothing was compared."""
        bases = (row.sha256 for row in self.rows if row.ppl_base is not None and row.kld_mean is None)
        return next(bases, None)


def conditions(row: ResultRow) -> dict[str, object]:
    """What must be equal where figures of several files are held against each other."""
    commit = row.llama_cpp_commit
    return {
        "text": row.corpus_sha256, "context": row.n_ctx, "number of chunks": row.n_chunks,
        "llama.cpp": commit and commit[:_COMMIT],
    }  # fmt: skip


def is_recipe(row: ResultRow) -> bool:
    """Whether a file's types were chosen tensor by tensor, as its label says: "4.50bpw", "like-Q4_K_M"."""
    return _PRESET.fullmatch(row.type) is None


def to_json(cells: Sequence[Swept]) -> str:
    """The same rows as a JSON list; what was not measured is null."""
    found = [
        {**dict(zip(KEYS, (one.model, one.profile), strict=True)), **row.columns()}
        for one in cells
        for row in one.rows
    ]
    return json.dumps(found, indent=1) + "\n"


def to_csv(cells: Sequence[tuple[str, str, pd.DataFrame]]) -> str:
    """The table of a sweep from those of its cells: model, profile, and what `tables.from_csv` reads.

    Text in it is escaped as in results.csv: `tables` reads it back.
    """
    keyed = [_keyed(table, model, profile) for model, profile, table in cells]
    names = dict.fromkeys([*KEYS, *tables.COLUMNS, *(str(name) for table in keyed for name in table)])
    if not keyed:
        return ",".join(names) + "\n"
    whole = pd.concat([table.dropna(axis="columns", how="all") for table in keyed], ignore_index=True)
    return tables.as_csv(whole.reindex(columns=list(names)))


def _keyed(table: pd.DataFrame, model: str, profile: str) -> pd.DataFrame:
    keyed: pd.DataFrame = table.copy()
    keyed.insert(0, "profile", escape.csv(profile) or None)
    keyed.insert(0, "model", escape.csv(model))
    return keyed


def rows_of(table: pd.DataFrame) -> tuple[ResultRow, ...]:
    """The rows of a table that `tables.from_csv` read; further metrics and tasks are left out."""
    return tuple(_row(record) for record in _records(table))


def _records(table: pd.DataFrame) -> list[dict[Hashable, Any]]:
    whole = table.astype(object)
    records: list[dict[Hashable, Any]] = whole.where(whole.notna(), None).to_dict("records")
    return records


def _row(record: Mapping[Hashable, Any]) -> ResultRow:
    return ResultRow(**{name: record[name] for name in tables.COLUMNS})


def frame(file: Path) -> pd.DataFrame:
    """A sweep.csv, a row for each GGUF: `model`, `profile`, then as results.csv. Raises InputError as `read`."""
    text = _text(file)
    with _explained(file):
        table = tables.from_csv(text)
        for number, name in enumerate(KEYS):
            table[name] = pd.array(_keys(text)[number], dtype="string")
        whole: pd.DataFrame = table[[*KEYS, *(name for name in table if name not in KEYS)]]
        return whole


def read(file: Path) -> list[Swept]:
    """The cells of a sweep.csv, in its order, without scores.

    Raises:
        InputError: it is not there, or is no such table.
    """
    text = _text(file)
    with _explained(file):
        return list(_cells(text))


def _text(file: Path) -> str:
    try:
        return file.read_bytes().decode()
    except FileNotFoundError:
        raise InputError(f"{file} is not there.", hint=_HINT) from None
    except (OSError, ValueError) as error:
        raise InputError(f"{file} cannot be read: {error}.", hint=_HINT) from error


@contextmanager
def _explained(file: Path) -> Iterator[None]:
    try:
        yield
    except (ValueError, TypeError, KeyError, OverflowError, csv.Error) as error:
        raise InputError(f"{file} is no table of a sweep: {error}.", hint=_HINT) from error


def _cells(text: str) -> Iterator[Swept]:
    rows = rows_of(tables.from_csv(text))
    found: dict[tuple[str, str], list[ResultRow]] = {}
    for model, profile, row in zip(*_keys(text), rows, strict=True):
        found.setdefault((model, profile), []).append(row)
    yield from (Swept(model, profile, tuple(own)) for (model, profile), own in found.items())


def _keys(text: str) -> tuple[list[str], ...]:
    """The columns of models and profiles."""
    keys = pd.read_csv(io.StringIO(text), usecols=list(KEYS), dtype="string", keep_default_na=False)
    return tuple(_texts(keys[name]) for name in KEYS)


def _texts(column: Iterable[Any]) -> list[str]:
    return [escape.from_csv(str(cell)) for cell in column]
