"""Parquet and Arrow files -> text, read in a process of its own: pyarrow maps such files as they are, and one that is
damaged can end it by a signal."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator, Sequence
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
    extras.require("data", modules=("pyarrow",))
    names: list[Json] = [str(file) for file in files]
    known: list[Json] = list(dataset_rows.KNOWN)
    request: Json = {"files": names, "column": column, "target": str(target), "sha256": sha256, "known": known}
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
        if request["sha256"] is None:
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
    import pyarrow as pa

    try:
        for texts in _columns(path, column):
            texts.validate(full=True)
            yield from (value or "" for value in texts.to_pylist())
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())[:300]
        raise CorpusError(f"{path} cannot be read as a table: {reason}", hint=_AGAIN) from error


def _columns(path: Path, column: str | None) -> Iterable[pyarrow.Array]:
    """A column in batches."""
    import pyarrow as pa

    kind = table_kind(path)
    if kind == "parquet":
        import pyarrow.parquet as pq

        file = pq.ParquetFile(path)
        name = _choose(file.schema_arrow, column, path)
        return (batch.column(name) for batch in file.iter_batches(_ROWS_AT_ONCE, columns=[name]))
    source = pa.memory_map(str(path))
    reader = pa.ipc.open_file(source) if kind == "file" else pa.ipc.open_stream(source)
    name = _choose(reader.schema, column, path)
    if kind == "file":
        return (reader.get_batch(i).column(name) for i in range(reader.num_record_batches))
    return (batch.column(name) for batch in reader)


def _choose(schema: pyarrow.Schema, column: str | None, path: Path) -> str:
    import pyarrow as pa

    texts = [f.name for f in schema if pa.types.is_string(f.type) or pa.types.is_large_string(f.type)]
    return choose_column(texts, column, str(path))


if __name__ == "__main__":
    confined.serve(_write)
