"""WikiText-2 from each of its sources, and data sets by name, from loopback hubs."""

from __future__ import annotations

import hashlib
import io
import zipfile

import pytest

from ggufkit.core.errors import CorpusError
from ggufkit.core.progress import SilentReporter
from ggufkit.hub.listing import RemoteFile
from ggufkit.texts import corpus, dataset_rows, wikitext
from ggufkit.texts.chats import read_chats
from ggufkit.texts.wikitext import Text
from tests.hubserver import HubServer
from tests.shared import WIKI_TEST, needs_shared

pa = pytest.importorskip("pyarrow", reason="reading tables needs pyarrow")
pytestmark = pytest.mark.usefixtures("own_hub_caches")

LINES = [" \n", " = Heading = \n", " \n", *(f" Line number {i} . \n" for i in range(400)), " \n", " \n"]
ORIGINAL = "".join(LINES)
CARD = """---
configs:
- config_name: wikitext-2-raw-v1
  data_files:
  - split: test
    path: wikitext-2-raw-v1/test-*
---
"""


@pytest.fixture
def text(monkeypatch: pytest.MonkeyPatch) -> Text:
    """A small text in the place of WikiText-2's test split."""
    digest = hashlib.sha256(ORIGINAL.encode()).hexdigest()
    small = Text("wikitext2", "wiki.test.raw", "test", digest)
    monkeypatch.setitem(wikitext.TEXTS, "wikitext2", small)
    monkeypatch.setitem(dataset_rows.KNOWN, digest, small.file)
    return small


def archive(content: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """The zip, with its hash as the known one."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("wikitext-2-raw/wiki.test.raw", content)
    body = buffer.getvalue()
    known = RemoteFile("wikitext-2-raw-v1.zip", len(body), hashlib.sha256(body).hexdigest())
    monkeypatch.setattr(wikitext, "_ZIP", known)
    return {known.path: body}


def parquet(lines: list[str]) -> bytes:
    import pyarrow.parquet as pq

    sink = io.BytesIO()
    pq.write_table(pa.table({"text": [line if line.strip() else "" for line in lines]}), sink)
    return sink.getvalue()


def rows_repo(lines: list[str]) -> dict[str, bytes]:
    return {"README.md": CARD.encode(), "wikitext-2-raw-v1/test-00000-of-00001.parquet": parquet(lines)}


def find(given: str = "wikitext2") -> corpus.Corpus:
    return corpus.resolve(given, SilentReporter())


def test_from_the_original_archive(hub: HubServer, text: Text, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repos["datasets/ggml-org/ci"] = archive(ORIGINAL, monkeypatch)
    assert find().path.read_text() == ORIGINAL
    assert find().sha256 == text.sha256
    assert len(hub.content_requests()) == 1


def test_an_archive_with_another_text_is_refused(
    hub: HubServer, text: Text, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.repos["datasets/ggml-org/ci"] = archive(ORIGINAL + "x", monkeypatch)
    with pytest.raises(CorpusError, match="not the known one"):
        find()


def test_from_rows_by_datasets(hub: HubServer, text: Text, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("datasets", reason="the datasets library is not installed")
    hub.repos["datasets/Salesforce/wikitext"] = rows_repo(LINES)
    assert find().path.read_text() == ORIGINAL
    other = find("Salesforce/wikitext/wikitext-2-raw-v1:test:text")
    assert other.sha256 == text.sha256
    assert other.path != find().path


def test_from_rows_on_modelscope(hub: HubServer, text: Text, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("modelscope_hub", reason="ModelScope's client is not installed")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    hub.repos["datasets/modelscope/wikitext"] = rows_repo(LINES)
    assert find().path.read_text() == ORIGINAL


@pytest.mark.parametrize(
    "lines",
    [[x for x in LINES if x.strip()], [x.replace("\n", "\r\n") for x in LINES]],
    ids=["no blank lines", "CRLF"],
)
def test_rows_that_lost_something_are_an_error(
    lines: list[str], hub: HubServer, text: Text, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("modelscope_hub", reason="ModelScope's client is not installed")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    hub.repos["datasets/modelscope/wikitext"] = rows_repo(lines)
    with pytest.raises(CorpusError, match="dropped or changed"):
        find()


def test_nothing_answers(text: Text, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(CorpusError) as refused:
        find()
    assert "hf-mirror.com" in str(refused.value.hint)


@needs_shared
def test_the_real_split_from_rows(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("datasets", reason="the datasets library is not installed")
    lines = WIKI_TEST.read_text(encoding="utf-8").splitlines(keepends=True)
    hub.repos["datasets/Salesforce/wikitext"] = rows_repo(lines)
    found = find()
    assert found.sha256 == corpus.WIKITEXT2_TEST_SHA256
    assert found.path.read_bytes() == WIKI_TEST.read_bytes()


def tables(**columns: list[object]) -> bytes:
    import pyarrow.parquet as pq

    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue()


def test_texts_by_name(hub: HubServer) -> None:
    """Each row once, with the line ends of Unix; other splits and columns are left."""
    hub.repos["datasets/hfl/cmrc2018"] = {
        "data/validation-00000-of-00001.parquet": tables(
            context=["甲。", "甲。", "乙。"], question=["a", "b", "c"]
        ),
        "data/train-00000-of-00001.parquet": tables(context=["丙。"], question=["d"]),
    }
    hub.repos["datasets/google-research-datasets/mbpp"] = {
        "full/test-00000-of-00001.parquet": tables(code=["def f():\r\n  pass", "x = 1"], task_id=[1, 2]),
        "sanitized/test-00000-of-00001.parquet": tables(code=["y = 1"], task_id=[3]),
    }
    assert find("chinese").path.read_text() == "甲。\n\n乙。\n\n"
    assert find("code").path.read_text() == "def f():\n  pass\n\nx = 1\n\n"
    asked = len(hub.content_requests())
    assert find("code").name == "code"
    assert len(hub.content_requests()) == asked == 2


def test_conversations_by_name(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """From ModelScope where Hugging Face does not answer."""
    pytest.importorskip("modelscope_hub", reason="ModelScope's client is not installed")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    talk = [{"role": "user", "content": "Grüß Gott"}, {"role": "assistant", "content": "Hello"}]
    hub.repos["datasets/HuggingFaceTB/everyday-conversations-llama3.1-2k"] = {
        "data/test_sft-00000-of-00001.parquet": tables(messages=[talk, talk[:1]], prompt=["a", "b"]),
    }
    found = find("chat")
    assert found.chats
    assert [chat.messages for chat in read_chats(found.path)] == [talk, talk[:1]]


def test_a_named_text_without_its_column_is_an_error(hub: HubServer) -> None:
    hub.repos["datasets/HuggingFaceTB/everyday-conversations-llama3.1-2k"] = {
        "data/test_sft-00000-of-00001.parquet": tables(prompt=["a"]),
    }
    with pytest.raises(CorpusError, match="has no 'messages'; it has: prompt"):
        find("chat")
    with pytest.raises(CorpusError, match="no Parquet files of split 'train_sft'"):
        find("chat-train")
