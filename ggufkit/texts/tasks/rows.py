"""Rows of tables and data sets, each with its place as messages say it: JSON and JSONL, CSV, Parquet and Arrow, hubs."""

from __future__ import annotations

import csv
import io
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ggufkit.core.errors import CorpusError, InputError
from ggufkit.core.jsonfile import parse_json
from ggufkit.core.progress import Reporter
from ggufkit.hub import huggingface
from ggufkit.hub.listing import Repo
from ggufkit.hub.obtain import offline
from ggufkit.texts import hub_tables, tables
from ggufkit.texts.dataset_rows import whole_rows
from ggufkit.texts.row_files import JSON, LINES, decode
from ggufkit.texts.tasks.known import DataSet, Task

Placed = tuple[str, Mapping[str, Any]]
"""A row, and where it is."""

CSV, TABLES = (".csv", ".tsv"), (".parquet", ".arrow", ".feather")
_HINT = "Each row is an object with the columns of one of the data sets."


def of_file(path: Path) -> Iterator[Placed]:
    """The rows of a file with columns, by its name.

    Raises:
        CorpusError: it is damaged, or a row is no object.
    """
    kind = path.suffix.lower()
    if kind in CSV:
        return _of_csv(path, "\t" if kind == ".tsv" else ",")
    if kind in TABLES:
        return _of_table(path)
    return _of_lines(path, str(path), "line") if kind in LINES else _of_json(path)


def is_table(path: Path) -> bool:
    """Whether a file has columns, by its name."""
    return path.suffix.lower() in (JSON, *LINES, *CSV, *TABLES)


def of_hub(task: Task, target: Path, reporter: Reporter) -> None:
    """Write the rows of a task's data set as JSONL, from the hub that answers.

    Raises:
        CorpusError: no hub has it; the message says what each of them said.
    """
    refusals: list[str] = []
    for way in (_from_huggingface, _from_modelscope):
        try:
            way(task, target, reporter)
            return
        except InputError as error:
            refusals.append(error.message)
    raise CorpusError(
        f"The questions of {task.title} are not in the cache, and no hub has them: " + " ".join(refusals),
        hint=f"Set HF_ENDPOINT to a mirror such as https://hf-mirror.com, or give a file: --tasks {task.name}=FILE.",
    )


def of_cache(path: Path) -> Iterator[Placed]:
    """The rows that `of_hub` wrote."""
    return _of_lines(path, str(path), "row")


def _from_huggingface(task: Task, target: Path, reporter: Reporter) -> None:
    there: DataSet = task.huggingface
    with reporter.step(f"Loading {there.name} with datasets"):
        # `datasets` waits for minutes for a hub that is out of reach; one question tells.
        alone = offline() or not hub_tables.answers(huggingface.list_files, Repo(there.name, kind="dataset"))
        whole_rows(there.name, there.config, there.split, target, offline=alone)


def _from_modelscope(task: Task, target: Path, reporter: Reporter) -> None:
    there: DataSet = task.modelscope
    tables.write_rows(hub_tables.modelscope_tables(there.name, there.config, there.split, reporter), target)


def _of_csv(path: Path, separator: str) -> Iterator[Placed]:
    reader = csv.reader(
        io.StringIO(decode(path).removeprefix("\ufeff"), newline=""), delimiter=separator, strict=True
    )
    names: list[str] = []
    while True:
        before = reader.line_num
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise CorpusError(f"{path}, line {reader.line_num}, is no CSV: {error}.", hint=_HINT) from None
        if cells is None:
            return
        if not names:
            names = cells
        elif cells:
            if len(cells) != len(names):
                message = f"{path}, line {before + 1}, has {len(cells)} cells for {len(names)} columns."
                raise CorpusError(message, hint="Put cells with commas in quotation marks.")
            yield f"line {before + 1}", dict(zip(names, cells, strict=True))


def _of_table(path: Path) -> Iterator[Placed]:
    with tempfile.TemporaryDirectory(prefix="ggufkit-rows-") as scratch:
        lines = Path(scratch) / "rows.jsonl"
        tables.write_rows([path], lines)
        yield from _of_lines(lines, str(path), "row")


def _of_json(path: Path) -> Iterator[Placed]:
    entries = parse_json(decode(path), list[Any], str(path), CorpusError, hint=_HINT)
    for number, entry in enumerate(entries, 1):
        yield f"entry {number}", _row(entry, f"{path}, entry {number},")


def _of_lines(path: Path, source: str, unit: str) -> Iterator[Placed]:
    for number, line in enumerate(decode(path).split("\n"), 1):
        if line.strip():
            what = f"{source}, {unit} {number},"
            yield f"{unit} {number}", _row(parse_json(line, object, what, CorpusError, hint=_HINT), what)


def _row(value: object, what: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise CorpusError(f"{what} is {type(value).__name__}, no object.", hint=_HINT)
    return value
