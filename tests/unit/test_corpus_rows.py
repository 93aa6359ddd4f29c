"""Rows of a data set -> the original bytes, or an error; and which names mean what."""

from __future__ import annotations

import codecs
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ggufkit.core.errors import CorpusError, InputError
from ggufkit.core.progress import SilentReporter
from ggufkit.measure.evaluation import warn_of_special_tokens
from ggufkit.texts import corpus, dataset_rows, wikitext
from ggufkit.texts.calibration import read_texts
from tests.shared import WIKI_TEST, needs_shared

pa = pytest.importorskip("pyarrow", reason="reading tables needs pyarrow")

# In WikiText's way: a blank line holds one space, and every line ends with one too.
ORIGINAL = (
    " \n = Robert Boulter = \n \n Robert Boulter is an English actor . \n \n \n = = Career = = \n \n In 2000 . \n"
)


def as_rows(text: str) -> list[str]:
    """As the datasets library's loader cuts the file: a blank line becomes an empty string."""
    return [line if line.strip() else "" for line in text.splitlines(keepends=True)]


pytestmark = pytest.mark.usefixtures("private_cache")


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> str:
    digest = hashlib.sha256(ORIGINAL.encode()).hexdigest()
    monkeypatch.setitem(dataset_rows.KNOWN, digest, "wiki.tiny.raw")
    return digest


@pytest.mark.parametrize("cut", [lambda r: r, lambda r: r.removesuffix("\n")], ids=["with line ends", "without"])
def test_rows_make_the_original_file(known: str, cut: Callable[[str], str], tmp_path: Path) -> None:
    dataset_rows.write_known(lambda: map(cut, as_rows(ORIGINAL)), tmp_path / "x", known)
    assert (tmp_path / "x").read_text() == ORIGINAL


@needs_shared
def test_wikitext_is_rebuilt_to_the_last_byte(tmp_path: Path) -> None:
    lines = as_rows(WIKI_TEST.read_text(encoding="utf-8"))
    assert (len(lines), lines.count("")) == (4358, 1467)
    dataset_rows.write_known(lambda: lines, tmp_path / "x", wikitext.TEXTS["wikitext2"].sha256)
    assert (tmp_path / "x").read_bytes() == WIKI_TEST.read_bytes()
    assert (tmp_path / "x").stat().st_size == 1_290_590


DAMAGE: dict[str, Callable[[list[str]], list[str]]] = {
    "blank lines dropped": lambda r: [x for x in r if x],
    "CRLF": lambda r: [x.replace("\n", "\r\n") for x in r],
    "one row dropped": lambda r: r[:-1],
    "stripped": lambda r: [x.strip() for x in r],
    "two rows swapped": lambda r: [r[1], r[0], *r[2:]],
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_damaged_rows_are_an_error(damage: Callable[[list[str]], list[str]], known: str, tmp_path: Path) -> None:
    with pytest.raises(CorpusError):
        dataset_rows.write_known(lambda: damage(as_rows(ORIGINAL)), tmp_path / "x", known)
    assert not (tmp_path / "x").exists()


@needs_shared
@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_damaged_wikitext_is_an_error(damage: Callable[[list[str]], list[str]], tmp_path: Path) -> None:
    lines = as_rows(WIKI_TEST.read_text(encoding="utf-8"))
    with pytest.raises(CorpusError, match="expected 173c87a5"):
        dataset_rows.write_known(lambda: damage(lines), tmp_path / "x", wikitext.TEXTS["wikitext2"].sha256)


@given(
    st.lists(
        st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=9),
        min_size=1,
        max_size=9,
    )
)
def test_other_rows_are_lines(tmp_path_factory: pytest.TempPathFactory, lines: list[str]) -> None:
    target = tmp_path_factory.mktemp("rows") / "x"
    dataset_rows.write_text(lambda: lines, target)
    assert target.read_bytes().decode() == "".join(f"{line}\n" for line in lines)


def write_table(path: Path, kind: str, **columns: list[str] | list[int]) -> Path:
    table = pa.table(columns)
    if kind == "parquet":
        import pyarrow.parquet as pq

        pq.write_table(table, path)
        return path
    new = pa.ipc.new_stream if kind == "stream" else pa.ipc.new_file
    with pa.OSFile(str(path), "wb") as sink, new(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=3)
    return path


@pytest.mark.parametrize(
    ("name", "content", "given"),
    [
        ("x.jsonl", '{"text": "one\u2028a", "id": 1}\r\n\n{"id": 2, "text": "two"}\n', ""),
        ("x.json", '[{"q": "?", "body": "one\u2028a"}, {"q": "?", "body": "two"}]', ":body"),
        ("x.ndjson", '"one\u2028a"\n"two"\n', ""),
        ("x.JSON", '[{"only": "one\u2028a"}, {"only": "two"}]', ""),
    ],
)
def test_json_is_read_as_rows_of_text(name: str, content: str, given: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content.encode())
    found = corpus.resolve(f"{tmp_path / name}{given}")
    assert found.path.read_text(encoding="utf-8") == "one\u2028a\ntwo\n"
    assert found.name == name


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.jsonl", '{"id": 1}', "no column called text; its text columns: none"),
        ("x.jsonl", '{"q": "a", "a": "b"}', "its text columns: q, a"),
        ("x.jsonl", '{"text": "a"}\n{"text": 1}', "an entry without the text field 'text'"),
        ("x.json", "[1]", "it has: int"),
        ("x.json", "[]", "holds no text"),
        ("x.json", '{"text": "a"}\n{"text": "b"}', "is not valid JSON"),
    ],
)
def test_json_without_text_is_refused(name: str, content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(CorpusError, match=message):
        corpus.resolve(str(tmp_path / name))


@pytest.mark.parametrize("kind", ["parquet", "stream", "file"])
def test_a_table_under_another_name_is_not_read_as_text(kind: str, tmp_path: Path) -> None:
    file = write_table(tmp_path / "wiki.raw", kind, text=as_rows(ORIGINAL))
    with pytest.raises(CorpusError, match="binary framing"):
        corpus.resolve(str(file))


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "empty"), (b"caf\xe9 au lait", "byte 3"), (b"ok\0ok", "NUL"), ("é".encode()[:1], "byte 0|byte 1")],
)
def test_what_is_no_text_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_bytes(content)
    with pytest.raises(CorpusError, match=message):
        corpus.resolve(str(tmp_path / "x.txt"))


def test_nothing_of_that_name(tmp_path: Path) -> None:
    with pytest.raises(CorpusError) as refused:
        corpus.resolve(str(tmp_path / "no.txt"))
    assert "wikitext2" in str(refused.value.hint)


@pytest.mark.parametrize(
    ("given", "yes"),
    [
        ("Salesforce/wikitext/wikitext-2-raw-v1:test", True),
        ("Salesforce/wikitext/wikitext-2-raw-v1:test:text", True),
        ("ms:modelscope/wikitext:train", True),
        ("acme/x", False),
        ("/abs/path:test", False),
        ("wikitext2", False),
    ],
)
def test_names_of_data_sets(given: str, yes: bool) -> None:
    assert wikitext.is_dataset(given) is yes


def test_a_named_text_in_the_cache_is_used(
    monkeypatch: pytest.MonkeyPatch, private_cache: Path, known: str
) -> None:
    text = wikitext.Text("wikitext2", "wiki.tiny.raw", "test", known)
    monkeypatch.setitem(wikitext.TEXTS, "wikitext2", text)
    assert corpus.inventory()["wikitext2"] is None
    home = private_cache / "corpora"
    home.mkdir(parents=True)
    (home / text.file).write_text(ORIGINAL)
    assert corpus.resolve("wikitext2").path == home / text.file
    assert corpus.inventory()["wikitext2"] == home / text.file
    (home / text.file).write_text(ORIGINAL + " ")
    assert corpus.inventory()["wikitext2"] is None


@pytest.mark.parametrize("name", ["t.txt", "t.jsonl"])
@pytest.mark.parametrize(
    ("encoding", "mark", "said"),
    [
        ("utf-16-le", codecs.BOM_UTF16_LE, "UTF-16"),
        ("utf-16-be", codecs.BOM_UTF16_BE, "UTF-16"),
        ("utf-32-le", codecs.BOM_UTF32_LE, "UTF-32"),
        ("utf-16-le", b"", "UTF-16LE"),
        ("utf-16-be", b"", "UTF-16BE"),
    ],
)
def test_a_text_in_utf_16(tmp_path: Path, name: str, encoding: str, mark: bytes, said: str) -> None:
    """As editors on Windows save it."""
    (tmp_path / name).write_bytes(mark + "The quick brown fox — über\n".encode(encoding))
    with pytest.raises(CorpusError, match=rf"{name} is {said[:6]} text, not UTF-8") as refused:
        corpus.resolve(str(tmp_path / name))
    assert f"iconv -f {said} -t UTF-8" in str(refused.value.hint)
    assert refused.value.exit_code == 3
    with pytest.raises(CorpusError, match=f"is {said[:6]} text"):
        read_texts(tmp_path / name)


def test_a_binary_file_is_no_text_in_utf_16(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_bytes(b"\0\0\1\0" * 100)
    with pytest.raises(CorpusError, match="is binary"):
        corpus.resolve(str(tmp_path / "x.txt"))


def test_a_table_that_changes_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its text is kept under the hash of the table."""
    table, home = tmp_path / "t.jsonl", tmp_path / "cache" / "corpora"
    table.write_text('{"text": "old"}\n')
    read = dataset_rows.read_field

    def change(path: Path, column: str | None) -> Iterator[str]:
        path.write_text('{"text": "new"}\n')
        return read(path, column)

    monkeypatch.setattr(dataset_rows, "read_field", change)
    with pytest.raises(InputError, match=r"t\.jsonl changed while"):
        corpus.resolve(str(table))
    assert not list(home.glob("*.txt"))
    monkeypatch.setattr(dataset_rows, "read_field", read)
    assert corpus.resolve(str(table)).path.read_text() == "new\n"


def test_special_tokens_in_a_text_are_told(tmp_path: Path) -> None:
    """llama-perplexity takes `<|im_end|>` for ten characters."""
    told: list[str] = []

    class Listener(SilentReporter):
        def warn(self, message: str) -> None:
            told.append(message)

    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_token_list(["<|im_end|>", "<b>", "a"])
    writer.add_token_types([gguf.TokenType.CONTROL, gguf.TokenType.NORMAL, gguf.TokenType.NORMAL])
    writer.add_tensor("t", np.zeros(32, np.float32))
    for write in (
        writer.write_header_to_file,
        writer.write_kv_data_to_file,
        writer.write_tensors_to_file,
        writer.close,
    ):
        write()
    for content in ("a <b> <c> [INST]", "a<|im_end|>\n"):
        (tmp_path / "text.txt").write_text(content)
        warn_of_special_tokens(tmp_path / "m.gguf", corpus.open_text(tmp_path / "text.txt"), Listener())
    assert [message.partition(":")[0] for message in told] == [
        "text.txt holds special tokens of m.gguf (<|im_end|>)"
    ]


def test_marks_of_other_systems_are_told(tmp_path: Path) -> None:
    """They are tokens, too: the perplexity is another one."""
    told: list[str] = []

    class Listener(SilentReporter):
        def warn(self, message: str) -> None:
            told.append(message)

    file = tmp_path / "text.txt"
    for content in (b"a\nb\n", b"a\r\nb\r\n", codecs.BOM_UTF8 + b"a\r\n"):
        file.write_bytes(content)
        assert corpus.resolve(str(file), Listener()).n_bytes == len(content)
    assert [message.partition(":")[0] for message in told] == [
        f"{file} has Windows line ends (CRLF)",
        f"{file} has a byte order mark and Windows line ends (CRLF)",
    ]
