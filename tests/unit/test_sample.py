"""A sample stands for its text: from all over it, in whole lines, and always the same."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ggufkit.measure.logits.sample import spread
from ggufkit.texts.corpus import Corpus


def corpus_of(path: Path, data: bytes) -> Corpus:
    path.write_bytes(data)
    return Corpus(path, "x" * 64, len(data), path.name)


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    lines = [f"line {i:06d} {'word ' * (i % 40)}é\n" for i in range(6000)]
    return corpus_of(tmp_path / "text.txt", "".join(lines).encode())


@pytest.mark.parametrize("n_bytes", [3000, 50_000, 200_000, 400_000])
def test_whole_lines_in_order_from_all_over(corpus: Corpus, tmp_path: Path, n_bytes: int) -> None:
    made = spread(corpus, n_bytes, tmp_path / "sample.txt")
    text = made.path.read_text(encoding="utf-8")
    numbers = [int(line.split()[1]) for line in text.splitlines()]
    assert set(text.splitlines(keepends=True)) <= set(
        corpus.path.read_text(encoding="utf-8").splitlines(keepends=True)
    )
    assert numbers == sorted(set(numbers))
    assert made.n_bytes == pytest.approx(n_bytes, rel=0.15, abs=300)
    if n_bytes >= 50_000:
        tenths = [sum(1 for n in numbers if n // 600 == t) for t in range(10)]
        assert min(tenths) > 0.4 * max(tenths)


def test_the_same_again(corpus: Corpus, tmp_path: Path) -> None:
    first, second = spread(corpus, 50_000, tmp_path / "a.txt"), spread(corpus, 50_000, tmp_path / "b.txt")
    assert first.sha256 == second.sha256 != corpus.sha256
    assert spread(corpus, 60_000, tmp_path / "c.txt").sha256 != first.sha256


@given(st.text(min_size=1, max_size=3000), st.integers(1, 20_000))
def test_any_text_stays_utf8(tmp_path_factory: pytest.TempPathFactory, text: str, n_bytes: int) -> None:
    directory = tmp_path_factory.mktemp("sample")
    made = spread(corpus_of(directory / "t.txt", text.encode()), n_bytes, directory / "s.txt")
    assert made.path.read_bytes().decode("utf-8") is not None
    assert made.n_bytes <= len(text.encode())


def test_a_text_without_lines_is_cut_between_characters(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path / "t.txt", ("é" * 100_000).encode())
    made = spread(corpus, 40_000, tmp_path / "s.txt")
    assert set(made.path.read_text(encoding="utf-8")) == {"é"}
    assert made.n_bytes == pytest.approx(40_000, rel=0.05)
