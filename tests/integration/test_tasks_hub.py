"""Questions of a task from loopback hubs: Hugging Face by `datasets`, ModelScope, and the cache when offline."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest

from ggufkit.core.errors import CorpusError
from ggufkit.core.progress import SilentReporter
from ggufkit.texts.tasks import questions
from ggufkit.texts.tasks.known import TASKS
from ggufkit.texts.tasks.questions import Drawn, TaskData, TaskSpec
from tests.hubserver import HubServer

pa = pytest.importorskip("pyarrow", reason="reading tables needs pyarrow")
pytestmark = pytest.mark.usefixtures("own_hub_caches")

CHOICES = {"text": ["ice", "fire", "wind"], "label": ["A", "B", "C"]}
ROWS: list[dict[str, Any]] = [
    *({"id": str(i), "question": f"What is hot, {i}?", "choices": CHOICES, "answerKey": "B"} for i in range(5)),
    {"id": "5", "question": "What is it?", "choices": CHOICES, "answerKey": ""},
]
"""The last of them is no question."""


def repo() -> dict[str, bytes]:
    import pyarrow.parquet as pq

    there, sink = TASKS["arc"].huggingface, io.BytesIO()
    pq.write_table(pa.Table.from_pylist(ROWS), sink)
    where = f"{there.config}/{there.split}"
    files = [{"split": there.split, "path": f"{where}-*"}]
    card = f"---\nconfigs: {json.dumps([{'config_name': there.config, 'data_files': files}])}\n---\n"
    return {"README.md": card.encode(), f"{where}-00000-of-00001.parquet": sink.getvalue()}


def find(reporter: SilentReporter | None = None) -> TaskData:
    return questions.resolve(TaskSpec("arc"), Drawn(4, 1), reporter or SilentReporter())


def test_from_hugging_face_then_from_the_cache(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("datasets", reason="the datasets library is not installed")
    hub.repos["datasets/allenai/ai2_arc"] = repo()
    reporter = SilentReporter()
    found = find(reporter)
    assert [(q.answers, q.right) for q in found.questions] == [(("ice", "fire", "wind"), 1)] * 4
    assert reporter.warnings == ["arc: 1 of 6 left out (row 6: its answerKey '' is none of A, B, C)."]
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    asked = len(hub.content_requests())
    assert find().sha256 == found.sha256
    assert len(hub.content_requests()) == asked


def test_from_modelscope(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("modelscope_hub", reason="ModelScope's client is not installed")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    hub.repos["datasets/allenai/ai2_arc"] = repo()
    assert len(find().questions) == 4


def test_what_every_hub_said_is_told(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(CorpusError, match="no hub has them") as refused:
        find()
    assert "--tasks arc=FILE" in str(refused.value.hint)
