"""A conversation goes on where a setting cannot be had."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from ggufkit.cli import converse
from ggufkit.commands import chat
from ggufkit.core.errors import ResourceError, ToolError, UsageError
from ggufkit.request import RunOptions
from ggufkit.serving.endpoint import Endpoint
from ggufkit.serving.settings import Settings


def test_a_context_that_cannot_be_loaded_ends_no_conversation(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextlib.contextmanager
    def conversing(_gguf: Path, n_ctx: int | None, *_rest: object) -> Iterator[Endpoint]:
        if n_ctx == 10**8:
            raise ToolError("llama-server failed")
        yield Endpoint("127.0.0.1", 1, "m")

    monkeypatch.setattr(chat, "conversing", conversing)
    monkeypatch.setattr(chat, "is_templated", lambda _gguf: True)
    with ExitStack() as serving:
        talk = converse._Talk(Path("m.gguf"), RunOptions(), Settings(), (), serving)
        talk.begin()
        with pytest.raises(ResourceError, match="cannot be loaded with num_ctx 100000000: it stays as it was"):
            talk.set("num_ctx", "100000000")
        assert talk.settings == talk.conversation.settings == Settings()


@pytest.mark.parametrize("told", ["stop", "stop x"])
def test_a_setting_that_there_is_not_is_said_to_be_none(told: str) -> None:
    talk = converse._Talk(Path("m.gguf"), RunOptions(), Settings(), (), ExitStack())
    with pytest.raises(UsageError, match="There is no setting stop"):
        converse._set(talk, told)
