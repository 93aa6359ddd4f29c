"""Calibration text: reading, sampling, and what is refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ggufkit.core.errors import CorpusError, TokenizerError
from ggufkit.texts import calibration
from ggufkit.texts.calibration import (
    Sampling,
    draw,
    load_tokenizer,
    overlapping_windows,
    read_texts,
    require_vocabulary,
)
from tests import tiny
from tests.shared import CALIBRATION, LLAMA, OTHER_DOMAIN, QWEN2, WIKI_TEST, needs_shared


@dataclass
class Letters:
    """A tokenizer whose tokens are code points."""

    bos: int | None = None
    n_vocab: int = 256

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """One id per character."""
        return [[ord(c) for c in text] for text in texts]


def test_a_text_file_is_one_text(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("one\n\ntwo\n")
    assert read_texts(file) == ["one\n\ntwo\n"]


def test_json_lines_hold_one_text_each(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"body": "one"}\n\n{"body": "two"}\n"three"\n')
    assert read_texts(file, "body") == ["one", "two", "three"]


def test_json_holds_a_list(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text(json.dumps([{"text": "one"}, {"text": " "}, "two"]))
    assert read_texts(file) == ["one", "two"]


def test_a_directory_stands_for_its_files_in_order(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("two")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.jsonl").write_text('{"text": "one"}')
    (tmp_path / "c.bin").write_bytes(b"\0\1")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "x.json").write_text("{")
    (tmp_path / ".hidden.txt").write_text("three")
    assert read_texts(tmp_path) == ["one", "two"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.txt", None, "cannot be read"),
        ("empty.txt", b" \n", "no calibration text"),
        ("table.arrow", b"ARROW1\0\0", "binary"),
        ("latin.txt", b"caf\xe9", "not UTF-8"),
        ("broken.json", b"[", "not valid JSON"),
        ("broken.jsonl", b'{"text": "a"}\n{', "not valid JSON"),
        ("other.jsonl", b'{"body": "a", "id": 1}', "it has: body, id"),
        ("number.json", b"[1]", "it has: int"),
    ],
)
def test_what_is_no_text_is_refused(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(CorpusError, match=message) as refused:
        read_texts(tmp_path / name)
    assert refused.value.hint


def test_an_empty_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no calibration text"):
        read_texts(tmp_path)


TEXT = "".join(chr(33 + i % 90) for i in range(5000))


def test_samples_and_held_out_ones_are_disjoint_pieces_of_the_text() -> None:
    drawn = draw([TEXT], Letters(), Sampling(20, length=50, seed=1, held_out=5))
    rows = ["".join(map(chr, row)) for row in np.concatenate([drawn.samples, drawn.held_out])]
    assert drawn.samples.shape == (20, 50)
    assert drawn.held_out.shape == (5, 50)
    starts = [int(np.argmax([TEXT[i : i + 50] == row for i in range(0, 5000, 50)])) for row in rows]
    assert all(row in TEXT for row in rows)
    assert len(set(starts)) == len(starts) or len(TEXT) // 90 > 1


def test_the_seed_decides() -> None:
    one, again, other = (draw([TEXT], Letters(), Sampling(9, length=64, seed=s)) for s in (1, 1, 2))
    assert one.tokens_sha256 == again.tokens_sha256 != other.tokens_sha256
    assert one.notes.to_notes()["calibration_seed"] == 1
    assert one.notes.to_notes()["calibration_tokens"] == 9 * 64


def test_the_text_hash_of_one_file_is_the_hash_of_its_bytes() -> None:
    drawn = draw([TEXT], Letters(), Sampling(2, length=64))
    assert drawn.text_sha256 == hashlib.sha256(TEXT.encode()).hexdigest()


def test_every_sample_starts_with_bos() -> None:
    drawn = draw([TEXT], Letters(bos=7), Sampling(4, length=32))
    assert (drawn.samples[:, 0] == 7).all()
    assert (drawn.held_out[:, 0] == 7).all()
    assert (drawn.samples[:, 1:] != 7).all()


def test_short_texts_fill_up_a_sample_together_and_long_ones_are_cut() -> None:
    drawn = draw(["ab"] * 100 + ["x" * 500], Letters(), Sampling(10, length=50, held_out=2))
    assert drawn.samples.size == 500


def test_too_little_text_is_refused_with_what_it_is_enough_for() -> None:
    with pytest.raises(CorpusError, match=r"5,000 tokens, 50 samples of 100; 60 and 8") as refused:
        draw([TEXT], Letters(), Sampling(60, length=100))
    assert "--calibration-samples 42" in (refused.value.hint or "")


def test_a_huge_text_is_sampled_all_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "_PIECE_CHARS", 100)
    text = "".join(chr(33 + i // 1000) for i in range(90_000))
    drawn = draw([text], Letters(), Sampling(8, length=50, held_out=0))
    assert len(np.unique(drawn.samples)) > 5


@given(st.lists(st.text(alphabet="ab\n", max_size=40), max_size=6), st.integers(1, 9))
def test_pieces_are_the_text(texts: list[str], size: int) -> None:
    before = calibration._PIECE_CHARS
    calibration._PIECE_CHARS = size
    try:
        pieces = list(calibration._pieces(texts))
    finally:
        calibration._PIECE_CHARS = before
    assert "".join(pieces) == "".join(texts)
    assert all(0 < len(piece) <= size for piece in pieces)


def test_overlap_with_the_evaluation_text_is_counted() -> None:
    rng = np.random.default_rng(0)
    corpus = rng.integers(0, 50, 4000).astype(np.int32)
    drawn = draw([TEXT], Letters(), Sampling(4, length=100))
    assert overlapping_windows(drawn, corpus) == 0
    drawn.samples[2, 10:80] = corpus[500:570]
    assert overlapping_windows(drawn, corpus) == 7
    assert overlapping_windows(drawn, corpus[:10]) == 0


@needs_shared
@pytest.mark.parametrize("model", [LLAMA, QWEN2], ids=lambda m: m.name)
def test_only_text_that_overlaps_is_warned_about(model: Path) -> None:
    tokenizer = load_tokenizer(model)
    corpus = np.concatenate([np.array(i, np.int32) for i in tokenizer.encode(read_texts(WIKI_TEST))])
    assert overlapping_windows(draw(read_texts(CALIBRATION), tokenizer, Sampling(32)), corpus) == 0
    assert overlapping_windows(draw(read_texts(OTHER_DOMAIN), tokenizer, Sampling(32)), corpus) == 0
    assert overlapping_windows(draw(read_texts(WIKI_TEST), tokenizer, Sampling(32)), corpus) > 10_000


@needs_shared
def test_tokenizers_of_both_kinds_are_read() -> None:
    pieces, fast = load_tokenizer(LLAMA), load_tokenizer(QWEN2)
    assert (pieces.bos, pieces.n_vocab) == (1, 4096)
    assert (fast.bos, fast.n_vocab) == (None, 50259)
    assert all(len(ids) > 2 for t in (pieces, fast) for ids in t.encode(["Hello world.", "A second text."]))


def test_a_bos_that_the_tokenizer_adds_is_found(tmp_path: Path) -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer = tiny.train_tokenizer()
    tokenizer.enable_truncation(4)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert load_tokenizer(tmp_path).bos is None
    first = tokenizer.token_to_id("<|endoftext|>")
    tokenizer.post_processor = TemplateProcessing("<|endoftext|> $A", special_tokens=[("<|endoftext|>", first)])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    loaded = load_tokenizer(tmp_path)
    assert loaded.bos == first
    assert len(loaded.encode(["a b c d e f g h i"])[0]) > 4


def test_a_tokenizer_that_is_not_there_or_broken_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"neither tokenizer.json nor tokenizer.model"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(TokenizerError, match="cannot be read"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(("n_rows", "fits"), [(256, True), (300, True), (120, False), (513, False)])
def test_another_models_tokenizer_is_refused(n_rows: int, fits: bool) -> None:
    tokens = np.array([[5, 122]], np.int32)
    if fits:
        require_vocabulary(Letters(), n_rows, tokens)
    else:
        with pytest.raises(TokenizerError, match="tokens"):
            require_vocabulary(Letters(), n_rows, tokens)
