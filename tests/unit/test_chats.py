"""Conversations and mixtures of texts: what a file holds, which share each text has, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ggufkit.core.errors import CorpusError, TokenizerError, UsageError
from ggufkit.core.progress import SilentReporter
from ggufkit.request import CalibrationOptions, EvaluationOptions
from ggufkit.texts import calibration_text, corpus
from ggufkit.texts.calibration import load_tokenizer
from ggufkit.texts.calibration_text import Part, mixed
from ggufkit.texts.chats import Chat, holds_chats, read_chats
from ggufkit.texts.corpus import Corpus

pytestmark = pytest.mark.usefixtures("private_cache")

HELLO = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Good morning."}]


def lines(path: Path, *entries: Any) -> Path:
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return path


def text(path: Path, word: str, count: int) -> Corpus:
    path.write_text(f"{word} {word} {word}\n" * count)
    return corpus.open_text(path)


def test_conversations_are_known_by_their_first_entry(tmp_path: Path) -> None:
    chats = lines(
        tmp_path / "chat.jsonl", {"messages": HELLO}, {"messages": HELLO, "tools": [{"type": "function"}]}
    )
    found = corpus.resolve(str(chats))
    assert (found.path, found.name, found.chats, found.special) == (chats, "chat.jsonl", True, False)
    assert read_chats(chats) == [Chat(HELLO), Chat(HELLO, [{"type": "function"}])]
    (part,) = calibration_text.resolve(str(chats), "text", SilentReporter())
    assert part.text == found


def test_a_field_of_text_comes_first(tmp_path: Path) -> None:
    both = lines(tmp_path / "both.jsonl", {"text": "plain", "messages": HELLO})
    assert not corpus.resolve(str(both)).chats
    assert corpus.resolve(f"{both}:messages").chats
    assert not holds_chats(both, "text")
    (part,) = calibration_text.resolve(str(both), "messages", SilentReporter())
    assert part.text.chats


@pytest.mark.parametrize(
    ("entry", "what"),
    [
        ({"messages": []}, "Entry 2 .* has no messages"),
        ({"text": "x"}, "Entry 2 .* has no messages"),
        ({"messages": [HELLO[0], {"content": "x"}]}, "Entry 2 .* message 2 has no role"),
        ({"messages": ["x"]}, "message 1 has no role"),
    ],
)
def test_what_is_no_conversation_is_named(entry: Any, what: str, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=what):
        read_chats(lines(tmp_path / "chat.jsonl", {"messages": HELLO}, entry))


def test_sentencepiece_alone_parses_no_special_tokens(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").touch()
    with pytest.raises(TokenizerError, match="not parsed"):
        load_tokenizer(tmp_path, special=True)


def test_texts_are_mixed_by_their_shares(tmp_path: Path) -> None:
    one, other = text(tmp_path / "a.txt", "aaa", 30_000), text(tmp_path / "b.txt", "bbb", 3_000)
    found = mixed([Part(one, 0.75), Part(other, 0.25)])
    content = found.path.read_text()
    for end in (len(content) // 3, len(content)):
        share = content[:end].count("b") / (content[:end].count("a") + content[:end].count("b"))
        assert share == pytest.approx(0.25, abs=0.05)
    assert content.count("b") >= 3_000 * 9 - 4_096  # the shorter one is used up
    assert found.name == "a.txt:0.75 + b.txt:0.25"
    assert not found.special
    assert mixed([Part(one, 0.75), Part(other, 0.25)]) == found
    assert mixed([Part(one)]) is one


@pytest.mark.parametrize(
    ("given", "shares"),
    [
        (["a.txt:0.75", "b.txt"], [0.75, 0.25]),
        (["a.txt:25%", "b.txt:75%"], [0.25, 0.75]),
        (["a.txt", "b.txt"], [0.5, 0.5]),
        (["a.txt:.5", "b.txt", "b.txt"], [0.5, 0.25, 0.25]),
        (["a.txt"], [1.0]),
    ],
)
def test_shares_are_read(
    given: list[str], shares: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.txt", "b.txt"):
        text(tmp_path / name, name, 10)
    assert [part.share for part in calibration_text.resolve(given, "text", SilentReporter())] == shares


@pytest.mark.parametrize("given", [["a:0.7", "b:0.7"], ["a:0.5", "b:0.2"], ["a:0.5", "b:0.5", "c"]])
def test_shares_are_the_whole(given: list[str]) -> None:
    with pytest.raises(UsageError, match="together"):
        calibration_text.resolve(given, "text", SilentReporter())


def test_a_file_may_be_called_like_a_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text(tmp_path / "a:0.5", "a", 10), text(tmp_path / "b", "b", 10)
    assert [p.text.name for p in calibration_text.resolve(["a:0.5", "b"], "text", SilentReporter())] == [
        "a:0.5",
        "b",
    ]


def test_one_text_or_several() -> None:
    assert EvaluationOptions().corpora == ("wikitext2",)
    assert EvaluationOptions(corpus=("a", "b", "a")).corpora == ("a", "b")
    assert EvaluationOptions(corpus=("a",)).corpus == "a"
    assert CalibrationOptions(("a", Path("b"))).text == ("a", "b")  # type: ignore[arg-type]
