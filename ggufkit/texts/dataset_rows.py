"""Tables with a column of text -> the text file that they were made from.

WikiText's rows hold an empty string where the file has a line of one space, so its lines cannot simply be joined.
Run as a module it reads a data set with `datasets`, which is large, in a process of its own.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path

from ggufkit.core import extras, process
from ggufkit.core.errors import CorpusError
from ggufkit.core.hashing import sha256_file
from ggufkit.core.jsonfile import parse_json
from ggufkit.core.paths import cache_dir
from ggufkit.core.process import Surroundings
from ggufkit.hub.huggingface import serves_xet
from ggufkit.texts.row_files import read_entries, text_of

KNOWN = {
    "173c87a53759e0201f33e0ccf978e510c2042d7f2cb78229d9a50d79b9e7dd08": "wiki.test.raw",
    "4cd0f6876d07a413aa911261ff6d363c72d757d47f0fdd6015702014c89cb9c7": "wiki.valid.raw",
    "6707892fa3788b5ab9ed78ab5ff37d9fe825f6011a2ad4fcd6a6d467f0e7da57": "wiki.train.raw",
}
"""SHA-256 of the files of WikiText-2 raw, as they are in the original archive."""

_MAGIC = {b"PAR1": "parquet", b"ARROW1": "file", b"\xff\xff\xff\xff": "stream"}
_ALL = "*"
"""Stands for all columns."""
_SUFFIXES = {".parquet": "parquet", ".arrow": "stream", ".feather": "file"}

Rows = Callable[[], Iterable[str]]
"""Rows that can be read more than once."""


def table_kind(path: Path) -> str | None:
    """parquet, file or stream (Arrow's two formats), None for what is no table."""
    with path.open("rb") as file:
        head = file.read(8)
    return next((k for m, k in _MAGIC.items() if head.startswith(m)), None) or _SUFFIXES.get(path.suffix.lower())


def read_field(path: Path, field: str | None) -> Iterator[str]:
    """The texts of a JSON or JSONL file, a table, too: the fields of its objects are columns, and strings are rows.

    Raises:
        CorpusError: it is not valid, or has no such field.
    """
    entries = read_entries(path)
    if not entries:
        raise CorpusError(
            f"{path} holds no text.", hint="Give a text file, or JSON or JSONL with a field of text."
        )
    objects = [entry for entry in entries if isinstance(entry, dict)]
    fields = dict.fromkeys(name for entry in objects for name, value in entry.items() if isinstance(value, str))
    name = choose_column(list(fields), field, str(path)) if objects else "text"
    return (text_of(entry, name, path) for entry in entries)


def choose_column(names: list[str], wanted: str | None, where: str) -> str:
    """The column to read. Raises CorpusError when it is not there, or not clear which it is."""
    if wanted is None and ("text" in names or len(names) == 1):
        return "text" if "text" in names else names[0]
    if wanted in names and wanted is not None:
        return wanted
    have = ", ".join(names) or "none"
    missing = f"no text column {wanted!r}" if wanted else "no column called text"
    raise CorpusError(
        f"{where} has {missing}; its text columns: {have}.", hint="Name one: --corpus SOURCE:COLUMN."
    )


def _with_line_ends(row: str) -> str:
    return row or " \n"


def _without_line_ends(row: str) -> str:
    return (row or " ") + "\n"


def write_known(rows: Rows, target: Path, sha256: str) -> None:
    """Write the file with this hash from its rows, whether these kept their line ends or not.

    Raises:
        CorpusError: the rows do not make that file: some were dropped or changed.
    """
    for join in (_with_line_ends, _without_line_ends):
        _write(rows, target, join)
        if sha256_file(target) == sha256:
            return
    found = sha256_file(target)
    target.unlink()
    raise CorpusError(
        f"The rows do not make {KNOWN.get(sha256, 'the known text')}: SHA-256 {found[:16]}…, expected {sha256[:16]}…. "
        "Lines were dropped or changed (blank lines, CRLF).",
        hint="Take the data set from another source, or give the original file with --corpus.",
    )


def write_text(rows: Rows, target: Path, known: Collection[str] = KNOWN) -> None:
    """Write any rows as text, one a line; WikiText's become the original file, whose hash is known, where they can."""
    _write(rows, target, _with_line_ends)
    if sha256_file(target) in known:
        return
    _write(rows, target, _without_line_ends)
    if sha256_file(target) not in known:
        _write(rows, target, lambda row: row if row.endswith("\n") else row + "\n")


def _write(rows: Rows, target: Path, join: Callable[[str], str]) -> None:
    with target.open("w", encoding="utf-8", newline="") as file:
        file.writelines(map(join, rows()))


def dataset_rows(
    name: str, config: str | None, split: str, column: str | None, scratch: Path, *, offline: bool
) -> Rows:
    """The rows of a split, read by `datasets` into a file of one JSON string a line.

    Raises:
        MissingExtra: `datasets` is not installed.
        CorpusError: it cannot be reached, or knows no such data.
    """
    _load(name, config, split, column or "", scratch, offline=offline)
    what = f"A row of {name}"
    return lambda: (parse_json(line, str, what, CorpusError) for line in scratch.open(encoding="utf-8"))


def whole_rows(name: str, config: str | None, split: str, target: Path, *, offline: bool) -> None:
    """Write the rows of a split with all their columns, one JSON object a line. Raises as `dataset_rows` does."""
    _load(name, config, split, _ALL, target, offline=offline)


def _load(name: str, config: str | None, split: str, column: str, target: Path, *, offline: bool) -> None:
    """Let `datasets` write JSON, one row a line, in a process of its own."""
    extras.require("data", modules=("datasets",))
    argv = [sys.executable, "-m", __name__, name, config or "", split, column, str(target)]
    env = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "TQDM_DISABLE": "1"}
    env |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"} if offline else {}
    env |= {} if serves_xet() else {"HF_HUB_DISABLE_XET": "1"}
    output = process.run(
        argv,
        surroundings=Surroundings(env),
        log=cache_dir() / "logs" / f"rows-{target.stem}.log",
    )
    if output.returncode != 0:
        crash = f"it was ended by signal {-output.returncode}; a file of the data set may be damaged"
        said = output.stderr.strip().splitlines() or ["it said nothing"]
        reason = crash if output.returncode < 0 else said[-1]
        hint = "Check the name, the split and the network."
        raise CorpusError(f"`datasets` cannot load {name}: {reason}", hint=hint, log=output.log)


def _main(name: str, config: str, split: str, column: str, target: str) -> None:
    from datasets import Value, load_dataset

    data = load_dataset(name, config or None, split=split)
    if column == _ALL:
        with Path(target).open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(dict(row)) + "\n" for row in data)
        return
    texts = [n for n, f in data.features.items() if isinstance(f, Value) and f.dtype in ("string", "large_string")]
    try:
        chosen = choose_column(texts, column or None, name)
    except CorpusError as error:
        sys.exit(error.message)
    with Path(target).open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row[chosen] or "") + "\n" for row in data)


if __name__ == "__main__":
    _main(*sys.argv[1:])
