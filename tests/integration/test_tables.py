"""Parquet and Arrow files are read in a process of their own; what is damaged in them is told of the file."""

from __future__ import annotations

import contextlib
import hashlib
import random
from pathlib import Path

import pytest

from ggufkit.core import confined
from ggufkit.core.errors import CorpusError
from ggufkit.core.limits import Limits
from ggufkit.texts import corpus, dataset_rows, tables
from tests.fake_results import FAKES, write_results
from tests.integration.run_cli import fails
from tests.unit.test_corpus_rows import ORIGINAL, as_rows, write_table

pa = pytest.importorskip("pyarrow", reason="reading tables needs pyarrow")

pytestmark = pytest.mark.usefixtures("private_cache")


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> str:
    digest = hashlib.sha256(ORIGINAL.encode()).hexdigest()
    monkeypatch.setitem(dataset_rows.KNOWN, digest, "wiki.tiny.raw")
    return digest


@pytest.mark.parametrize(("kind", "suffix"), [("parquet", ".parquet"), ("stream", ".arrow"), ("file", ".arrow")])
def test_tables_are_read_as_corpora(kind: str, suffix: str, known: str, tmp_path: Path) -> None:
    file = write_table(tmp_path / f"wiki{suffix}", kind, text=as_rows(ORIGINAL), label=list(range(9)))
    found = corpus.resolve(str(file))
    assert found.sha256 == known
    assert found.path.read_text() == ORIGINAL
    assert corpus.resolve(f"{file}:text").sha256 == known


def test_a_column_must_be_clear(tmp_path: Path) -> None:
    file = write_table(tmp_path / "two.parquet", "parquet", question=["a"], answer=["b"], n=[1])
    with pytest.raises(CorpusError, match="question, answer"):
        corpus.resolve(str(file))
    with pytest.raises(CorpusError, match="'n'"):
        corpus.resolve(f"{file}:n")
    assert corpus.resolve(f"{file}:answer").path.read_text() == "b\n"


def test_a_damaged_table_is_an_error(tmp_path: Path) -> None:
    file = write_table(tmp_path / "x.parquet", "parquet", text=["a"] * 99)
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(CorpusError, match="cannot be read"):
        corpus.resolve(str(file))


def test_several_tables_make_one_text(tmp_path: Path) -> None:
    files = [write_table(tmp_path / f"{i}.parquet", "parquet", text=[f"row {i}"]) for i in range(2)]
    tables.write_column(files, None, tmp_path / "x")
    assert (tmp_path / "x").read_text() == "row 0\nrow 1\n"
    with pytest.raises(CorpusError, match="The rows do not make the known text"):
        tables.write_column(files, None, tmp_path / "x", "0" * 64)


def test_a_crash_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_table(tmp_path / "x.arrow", "file", text=["a"])

    def crash(*_given: object) -> None:
        raise confined.Unfinished("reading it ended in a crash (SIGBUS)")

    monkeypatch.setattr(confined, "call", crash)
    with pytest.raises(CorpusError) as refused:
        corpus.resolve(str(file))
    assert refused.value.exit_code == 3
    assert refused.value.message == (f"{file} cannot be read as a table: reading it ended in a crash (SIGBUS).")


def test_a_text_without_end_fills_no_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_table(tmp_path / "x.parquet", "parquet", text=["a" * 1000] * 1000)
    monkeypatch.setattr(tables, "_limits", lambda _files: Limits(60, 1 << 30, 10_000))
    with pytest.raises(CorpusError, match="far more text than a table of its size"):
        corpus.resolve(str(file))


@pytest.mark.parametrize("kind", ["parquet", "stream", "file"])
def test_a_mutated_table_is_read_or_refused(kind: str, tmp_path: Path) -> None:
    dice = random.Random(kind)
    whole = write_table(tmp_path / "x", kind, text=["héllo " * 9] * 30).read_bytes()
    for number in range(4):
        data = bytearray(whole)
        for _ in range(9):
            data[dice.randrange(8, len(data))] = dice.choice((0, 127, 128, 255))
        file = tmp_path / f"mutated-{number}"
        file.write_bytes(data)
        with contextlib.suppress(CorpusError):
            tables.write_column([file], None, tmp_path / "text")
            assert (tmp_path / "text").read_text(encoding="utf-8")


def test_the_command_says_which_file(tmp_path: Path) -> None:
    gguf = write_results(tmp_path / "out", FAKES[:1]) / "tiny-F16.gguf"
    file = write_table(tmp_path / "x.arrow", "stream", text=["a"] * 99)
    file.write_bytes(file.read_bytes()[:-200])
    said = fails(3, "perplexity", gguf, "--corpus", file)
    assert f"Error: {file} cannot be read as a table: " in said
