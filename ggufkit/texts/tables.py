"""Parquet and Arrow files -> text, read in a process of its own: pyarrow maps such files as they are, and one that is
damaged can end it by a signal."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ggufkit.core import confined, extras, machine
from ggufkit.core.errors import CorpusError, ResourceError
from ggufkit.core.limits import Limits
from ggufkit.core.records import Json
from ggufkit.texts import dataset_rows
from ggufkit.texts.dataset_rows import choose_column, table_kind

if TYPE_CHECKING:
    import pyarrow

_GIB = 1 << 30
_ALWAYS = 64 << 20
"""Bytes of text that a table of any size may hold."""
_ROWS_AT_ONCE = 128
_AGAIN = "Download it again."


def write_column(files: Sequence[Path], column: str | None, target: Path, sha256: str | None = None) -> None:
    """Write a column of tables as text; by default `text`, or the only column of text.

    Args:
        sha256: of the known text that the rows have to make.

    Raises:
        MissingExtra: pyarrow is not installed.
        CorpusError: a table is damaged or too large, has no such column, or its rows do not make the known text.
    """
    known: list[Json] = list(dataset_rows.KNOWN)
    _call(files, target, {"column": column, "sha256": sha256, "known": known})


def write_rows(files: Sequence[Path], target: Path) -> None:
    """Write the rows of tables with all their columns, one JSON object a line.

    Raises:
        MissingExtra: pyarrow is not installed.
        CorpusError: a table is damaged or too large.
    """
    _call(files, target, {"whole": True})


def _call(files: Sequence[Path], target: Path, wanted: dict[str, Json]) -> None:
    extras.require("data", modules=("pyarrow",))
    names: list[Json] = [str(file) for file in files]
    request: Json = {**wanted, "files": names, "target": str(target)}
    try:
        confined.call(__name__, request, _limits(files))
    except confined.Unfinished as ended:
        target.unlink(missing_ok=True)
        which = f"{files[0]} or a file beside it" if len(files) > 1 else str(files[0])
        raise CorpusError(f"{which} cannot be read as a table: {ended.reason}.", hint=_AGAIN) from ended


def _limits(files: Sequence[Path]) -> Limits:
    """Several times what tables of texts take; what is compressed a hundredfold is no text."""
    n_bytes = sum(file.stat().st_size for file in files)
    memory = max(2 * _GIB, machine.total_memory() // 2)
    return Limits(60 + 3 * (n_bytes >> 20), memory, _ALWAYS + 100 * n_bytes)


def _write(request: dict[str, Any]) -> None:
    """The work of the other process."""
    files, target = [Path(name) for name in request["files"]], Path(request["target"])

    def rows() -> Iterator[str]:
        return (row for file in files for row in read_column(file, request["column"]))

    try:
        if request.get("whole"):
            with target.open("w", encoding="utf-8") as opened:
                opened.writelines(json.dumps(row, default=str) + "\n" for file in files for row in read_rows(file))
        elif request["sha256"] is None:
            dataset_rows.write_text(rows, target, request["known"])
        else:
            dataset_rows.write_known(rows, target, request["sha256"])
    except OSError as error:
        if error.errno != errno.EFBIG:
            raise ResourceError(
                f"{target} cannot be written: {error.strerror}.", hint="Free some space."
            ) from error
        message = f"{files[0]} holds far more text than a table of its size can."
        raise CorpusError(message, hint="It is damaged, or made to fill the disk.") from error


def read_column(path: Path, column: str | None = None) -> Iterator[str]:
    """The texts of a table's column, a batch at a time.

    Raises:
        CorpusError: the table is damaged, or has no such column.
    """
    for batch in _batches(path, lambda schema: [_choose(schema, column, path)]):
        yield from (value or "" for value in batch.column(0).to_pylist())


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a table, a batch at a time. Raises CorpusError where it is damaged."""
    for batch in _batches(path, lambda schema: schema.names):
        yield from batch.to_pylist()


def _batches(path: Path, choose: Callable[[pyarrow.Schema], list[str]]) -> Iterator[pyarrow.RecordBatch]:
    """Some columns in batches, each checked whole."""
    import pyarrow as pa

    try:
        for batch in _opened(path, choose):
            batch.validate(full=True)
            yield batch
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())[:300]
        raise CorpusError(f"{path} cannot be read as a table: {reason}", hint=_AGAIN) from error


def _opened(path: Path, choose: Callable[[pyarrow.Schema], list[str]]) -> Iterator[pyarrow.RecordBatch]:
    import pyarrow as pa

    kind = table_kind(path)
    if kind == "parquet":
        import pyarrow.parquet as pq

        file = pq.ParquetFile(path)
        yield from file.iter_batches(_ROWS_AT_ONCE, columns=choose(file.schema_arrow))
        return
    source = pa.memory_map(str(path))
    reader = pa.ipc.open_file(source) if kind == "file" else pa.ipc.open_stream(source)
    names = choose(reader.schema)
    batches = (reader.get_batch(i) for i in range(reader.num_record_batches)) if kind == "file" else reader
    yield from (batch.select(names) for batch in batches)


def _choose(schema: pyarrow.Schema, column: str | None, path: Path) -> str:
    import pyarrow as pa

    texts = [f.name for f in schema if pa.types.is_string(f.type) or pa.types.is_large_string(f.type)]
    return choose_column(texts, column, str(path))


if __name__ == "__main__":
    confined.serve(_write)
