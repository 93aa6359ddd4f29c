"""A conversation: what fits into the context, what is left out, settings by their names, what is typed."""

from __future__ import annotations

import builtins
from collections.abc import Iterator
from typing import Any

import pytest

from ggufkit.cli import converse
from ggufkit.core.errors import InputError, UsageError
from ggufkit.serving.conversation import Answer, Conversation, Turn
from ggufkit.serving.endpoint import Endpoint
from ggufkit.serving.settings import Settings, changed

HERE = Endpoint("127.0.0.1", 8080, "llama")


class Standing(Conversation):
    """With a server for which every word is a token, and which answers «yes», to the end of the context."""

    sent: dict[str, Any]

    def _get(self, _path: str) -> dict[str, Any]:
        return {"default_generation_settings": {"n_ctx": 20}}

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        if path == "/apply-template":
            return {"prompt": " ".join(message["content"] for message in body["messages"])}
        return {"tokens": body["content"].split()}

    def _events(self, path: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        self.sent = {"path": path, **body}
        yield {"choices": [{"delta": {"reasoning_content": "Hm."}}]}
        yield {"choices": [{"delta": {"content": "yes"}}]}
        yield {"choices": [{"delta": {}, "finish_reason": "length"}]}
        yield {"choices": [], "usage": {"completion_tokens": 2}}


def talk(turns: int = 0, **settings: Any) -> Standing:
    return Standing(HERE, Settings(**settings), True, [Turn(f"a b {n}", "c d e") for n in range(turns)])


def test_the_oldest_turns_make_room_for_an_answer() -> None:
    assert talk(2).fitting("x y z").n_left_out == 0  # 15 of 20 tokens: a fourth is left
    fitting = talk(4).fitting("x y z")
    assert (fitting.n_left_out, fitting.n_tokens) == (2, 15)
    assert [turn.said for turn in fitting.turns] == ["a b 2", "a b 3"]
    assert talk(2, num_predict=2).fitting("x y z w v u").n_tokens == 18, "short answers need less"
    assert talk(2).fitting("x " * 19).n_tokens == 19, "alone it may leave less"


def test_a_message_that_is_too_long() -> None:
    with pytest.raises(InputError, match="The message has 20 tokens, the context 20") as refused:
        talk(1).fitting("x " * 20)
    assert "/set num_ctx" in str(refused.value.hint)
    with pytest.raises(InputError, match="and the system prompt have 21 tokens"):
        talk(system="be short now").fitting("x " * 18)


def test_an_answer_becomes_a_turn() -> None:
    one, answer = talk(1, system="be", temperature=0.0, seed=1), Answer()
    pieces = list(one.answer("x", one.fitting("x"), answer))
    assert [(piece.text, piece.is_thought) for piece in pieces] == [("Hm.", True), ("yes", False)]
    assert one.turns[-1] == Turn("x", "yes"), "what it thought before is no part of the next prompt"
    assert (answer.ended, answer.is_cut(None), answer.is_cut(2)) == ("length", True, False)
    assert one.n_used == 1 + 6 + 1 + 2
    assert one.sent["path"] == "/v1/chat/completions"
    assert [message["role"] for message in one.sent["messages"]] == ["system", "user", "assistant", "user"]
    assert (one.sent["temperature"], one.sent["seed"]) == (0.0, 1)
    assert not {"num_ctx", "system", "top_k", "max_tokens"} & set(one.sent)


def test_what_is_interrupted_counts_as_far_as_it_came() -> None:
    one = talk()
    pieces = one.answer("x", one.fitting("x"), Answer())
    next(pieces)
    pieces.close()
    assert one.turns == [], "a thought is no answer"
    pieces = one.answer("x", one.fitting("x"), Answer())
    next(pieces), next(pieces)
    pieces.close()
    assert one.turns == [Turn("x", "yes")]


def test_without_a_template_each_text_stands_alone() -> None:
    one = talk(3)
    one.templated = False
    list(one.answer("x y", one.fitting("x y"), Answer()))
    assert one.sent["path"] == "/v1/completions"
    assert (one.sent["prompt"], one.turns) == ("x y", [Turn("x y", "yes")])


def test_settings_by_all_their_names() -> None:
    found = changed(changed(changed(Settings(), "temperature", "0"), "max_tokens", "12"), "ctx", "4096")
    assert (found.temperature, found.num_predict, found.num_ctx) == (0, 12, 4096)
    assert changed(found, "num_predict", "all").num_predict is None
    assert changed(Settings(system="x"), "system", "").system is None
    assert changed(Settings(), "top_k", "0").body()["top_k"] == 0
    for name, written in (("top_p", "2"), ("seed", "x"), ("temperature", "nan"), ("num_ctx", "3")):
        with pytest.raises(UsageError, match=f"Invalid value for {name}"):
            changed(Settings(), name, written)
    with pytest.raises(UsageError, match="There is no setting warmth") as refused:
        changed(Settings(), "warmth", "1")
    assert "temperature, top_k" in str(refused.value.hint)


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["Hi"], "Hi"),
        (['"""Hi', "there", 'all"""'], "Hi\nthere\nall"),
        (['"""Hi"""'], "Hi"),
        (['/set system """a', 'b"""'], '/set system """a\nb"""'),
        (['def f(): """x"""'], 'def f(): """x"""'),
    ],
)
def test_messages_of_several_lines(typed: list[str], said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = iter(typed)
    monkeypatch.setattr(builtins, "input", lambda _asked: next(lines))
    assert converse._unquoted(converse._read()) == said
    assert list(lines) == []
