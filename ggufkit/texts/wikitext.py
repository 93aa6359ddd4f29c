"""Texts by name: WikiText-2 from whichever source answers, and any data set's column, kept in the cache."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ggufkit.core import extras
from ggufkit.core.errors import CorpusError, InputError
from ggufkit.core.hashing import sha256_file
from ggufkit.core.inputs import Input, unchanged
from ggufkit.core.paths import cache_dir
from ggufkit.core.progress import Reporter
from ggufkit.hub import huggingface
from ggufkit.hub.listing import Listing, RemoteFile, Repo, defect
from ggufkit.hub.obtain import offline
from ggufkit.texts import dataset_rows, hub_tables, tables
from ggufkit.texts.row_files import is_structured


@dataclass(frozen=True)
class Text:
    """A split of WikiText-2 raw: its file in the original archive, and that file's hash."""

    name: str
    file: str
    split: str
    sha256: str


TEXTS = {
    text.name: text
    for text in (
        Text("wikitext2", "wiki.test.raw", "test", "173c87a53759e0201f33e0ccf978e510c2042d7f2cb78229d9a50d79b9e7dd08"),
        Text(
            "wikitext2-train", "wiki.train.raw", "train", "6707892fa3788b5ab9ed78ab5ff37d9fe825f6011a2ad4fcd6a6d467f0e7da57"
        ),
    )
}  # fmt: skip

# The original archive, where llama.cpp's own script fetches it.
_ZIP = RemoteFile(
    "wikitext-2-raw-v1.zip", 4_721_645, "ef7edb566e3e2b2d31b29c1fdb0c89a4cc683597484c3dc2517919c615435a11"
)
_ZIP_REPO = Repo("ggml-org/ci", "927b3642933080f1b0e811e2f916e14c292992f9", "dataset")
_HF_ROWS = ("Salesforce/wikitext", "wikitext-2-raw-v1")
_MS_ROWS = ("modelscope/wikitext", "wikitext-2-raw-v1")
_SPEC = re.compile(
    r"(?P<ms>ms:)?(?P<id>[A-Za-z0-9_][\w.-]*/[\w.-]+)(?:/(?P<config>[\w.-]+))?:(?P<split>[\w.-]+)(?::(?P<column>\w+))?"
)


def cached_text(text: Text) -> Path | None:
    """The text in the cache, or None."""
    path = _home() / text.file
    return path if path.is_file() and sha256_file(path) == text.sha256 else None


def named(text: Text, reporter: Reporter) -> Path:
    """A named text on disk, its hash checked.

    Raises:
        CorpusError: no source had it; the message says what each of them said.
    """
    if (found := cached_text(text)) is not None:
        return found
    refusals: list[str] = []
    with hub_tables.making(_home() / text.file, reporter) as partial_path:
        for way in (_from_archive, _from_datasets, _from_modelscope):
            try:
                way(text, partial_path, reporter)
                return _home() / text.file
            except InputError as error:
                refusals.append(error.message)
    raise CorpusError(
        f"{text.file} of WikiText-2 is not in the cache, and no source has it: " + " ".join(refusals),
        hint="Set HF_ENDPOINT to a mirror such as https://hf-mirror.com, or give a text with --corpus FILE.",
    )


def is_dataset(given: str) -> bool:
    """Whether this names a data set: [ms:]OWNER/NAME[/CONFIG]:SPLIT[:COLUMN]."""
    return _SPEC.fullmatch(given) is not None


def dataset(given: str, reporter: Reporter) -> Path:
    """A data set's column as a text file.

    Raises:
        CorpusError, SourceError: there is no such data set, split or column.
    """
    match = _SPEC.fullmatch(given)
    if match is None:
        raise CorpusError(f"{given!r} names no data set.", hint="Write OWNER/NAME[/CONFIG]:SPLIT[:COLUMN].")
    target = _dataset_text(given)
    if target.is_file():
        return target
    with hub_tables.making(target, reporter) as partial_path:
        if match["ms"]:
            files = hub_tables.modelscope_tables(match["id"], match["config"], match["split"], reporter)
            tables.write_column(files, match["column"], partial_path)
        else:
            with reporter.step(f"Loading {given} with datasets"):
                scratch = partial_path.with_suffix(".rows")
                source = dataset_rows.dataset_rows(
                    match["id"], match["config"], match["split"], match["column"], scratch, offline=offline()
                )
            dataset_rows.write_text(source, partial_path)
    return target


def table(path: Path, column: str | None, reporter: Reporter) -> Path:
    """The column of a Parquet, Arrow or JSON file as a text file, made once for each content."""
    source = Input(path, sha256_file(path))
    target = _table_text(path, column)
    if not target.is_file():
        with (
            hub_tables.making(target, reporter) as partial_path,
            unchanged([source]),
            reporter.step(f"Reading the text of {path.name}"),
        ):
            if is_structured(path):
                dataset_rows.write_text(partial(dataset_rows.read_field, path, column), partial_path)
            else:
                tables.write_column([path], column, partial_path)
    return target


def require_dataset(given: str) -> None:
    """Raise MissingExtra where a data set cannot be read for want of packages, and is not in the cache."""
    if _dataset_text(given).is_file():
        return
    if given.startswith("ms:"):
        extras.require("modelscope")
    extras.require("data", modules=("pyarrow" if given.startswith("ms:") else "datasets",))


def require_table(path: Path, column: str | None) -> None:
    """Raise MissingExtra where a table cannot be read for want of packages, and its text is not in the cache."""
    if not is_structured(path) and not _table_text(path, column).is_file():
        extras.require("data", modules=("pyarrow",))


def _dataset_text(given: str) -> Path:
    name = re.sub(r"[^A-Za-z0-9.-]+", "_", given)
    return _home() / f"{name}-{hashlib.sha256(given.encode()).hexdigest()[:8]}.txt"


def _table_text(path: Path, column: str | None) -> Path:
    return _home() / f"{path.stem}-{sha256_file(path)[:12]}{f'-{column}' if column else ''}.txt"


def _home() -> Path:
    return cache_dir() / "corpora"


def _from_archive(text: Text, target: Path, reporter: Reporter) -> None:
    archive = huggingface.directory(_ZIP_REPO, str(_ZIP_REPO.revision)) / _ZIP.path
    if defect(archive, _ZIP):
        if offline():
            raise CorpusError("The archive is not in the cache, and HF_HUB_OFFLINE is set.")
        huggingface.fetch(_ZIP_REPO, Listing(str(_ZIP_REPO.revision), (_ZIP,)), [_ZIP], reporter)
    import zipfile

    with zipfile.ZipFile(archive) as content:
        target.write_bytes(content.read(f"wikitext-2-raw/{text.file}"))
    if sha256_file(target) != text.sha256:
        target.unlink()
        raise CorpusError(f"The archive's {text.file} is not the known one.")


def _from_datasets(text: Text, target: Path, reporter: Reporter) -> None:
    name, config = _HF_ROWS
    with reporter.step(f"Loading {name} with datasets"):
        alone = offline() or not hub_tables.answers(huggingface.list_files, Repo(name, kind="dataset"))
        source = dataset_rows.dataset_rows(
            name, config, text.split, "text", target.with_suffix(".rows"), offline=alone
        )
    dataset_rows.write_known(source, target, text.sha256)


def _from_modelscope(text: Text, target: Path, reporter: Reporter) -> None:
    tables.write_column(hub_tables.modelscope_tables(*_MS_ROWS, text.split, reporter), "text", target, text.sha256)
