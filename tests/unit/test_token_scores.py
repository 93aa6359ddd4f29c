"""What each token gave is kept beside a measurement, believed only if it is of that measurement, and decides ties."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ggufkit.core.records import Conditions, Measurement, ResultRow
from ggufkit.measure import token_scores
from ggufkit.measure.paired import Scores, Tokens, kld_difference
from ggufkit.report.losses import of_divergence
from ggufkit.report.verdict import verdicts

TOKENS = Tokens("c" * 64, 512, 40, "b" * 64)
WHERE = Conditions("cpu", "x", 0, 2, "x", "x", "c" * 64, 512, 40, "b" * 64)


def made(kld: float, seed: int = 1) -> Scores:
    """The same text under each seed; with another one a file's own noise differs."""
    hard = np.exp(np.random.default_rng(0).standard_normal((40, 255)))
    own = 1 + 0.1 * np.random.default_rng(seed).standard_normal((40, 255))
    values = hard * own
    values *= kld / values.mean()
    return Scores(TOKENS, values.astype("<f4").astype(float), values.astype("<f4") / 2.0)


def mean(value: float, sha256: str = "f", where: Conditions = WHERE) -> list[Measurement]:
    return [Measurement(sha256, "kld_mean", value, 0.001, "nats", where)]


def test_what_is_saved_is_read_again(tmp_path: Path) -> None:
    file, found = tmp_path / "m.divergence.scores", made(0.08)
    token_scores.save(file, "f", found)
    assert token_scores.path_of(tmp_path / "m.divergence.json") == file
    read = token_scores.load(file, "f")
    assert read is not None
    assert read.tokens == TOKENS
    np.testing.assert_array_equal(read.kld, found.kld)
    np.testing.assert_array_equal(read.ln_ratio, found.ln_ratio)
    assert [f.name for f in tmp_path.iterdir()] == [file.name]


def test_only_so_many_bytes_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_scores, "_MOST_VALUES", 1000)
    token_scores.save(tmp_path / "x", "f", made(0.08))
    assert (tmp_path / "x").stat().st_size < 1000
    kept = token_scores.load(tmp_path / "x", "f")
    assert kept is not None
    assert kept.kld.shape == (40, 1)
    monkeypatch.setattr(token_scores, "_LONGEST_HEAD", 10)
    assert token_scores.load(tmp_path / "x", "f") is not None
    monkeypatch.setattr(token_scores, "_MOST_VALUES", 10)
    assert token_scores.load(tmp_path / "x", "f") is None


def test_what_belongs_to_another_measurement_is_not_believed(tmp_path: Path) -> None:
    token_scores.save(tmp_path / "x", "f", made(0.08))
    assert token_scores.of_measurements(mean(0.08), tmp_path / "x") is not None
    others: tuple[list[Measurement], ...] = (
        mean(0.0801), mean(0.08, "another file"), mean(0.08, where=replace(WHERE, n_chunks=39)),
        mean(0.08, where=replace(WHERE, corpus_sha256="another text")), [],
    )  # fmt: skip
    assert [token_scores.of_measurements(found, tmp_path / "x") for found in others] == [None] * len(others)
    assert token_scores.of_measurements(mean(0.08), tmp_path / "nothing") is None


@pytest.mark.parametrize("damage", ["", "{}\n", "no JSON\n1234", "cut", "longer", "nan"])
def test_what_cannot_be_read_is_as_if_it_were_not_there(damage: str, tmp_path: Path) -> None:
    token_scores.save(tmp_path / "x", "f", made(0.08))
    data = (tmp_path / "x").read_bytes()
    kept = {"cut": data[:-4], "longer": data + b"1234", "nan": data[:-4] + b"\0\0\xc0\x7f"}
    (tmp_path / "x").write_bytes(kept.get(damage, damage.encode()))
    assert token_scores.load(tmp_path / "x", "f") is None


def row(variant: str, kld: float) -> ResultRow:
    return ResultRow(
        "m", variant, "Q4_K_M", f"{variant}.gguf", 1000, 10, 4.8, kld_mean=kld, kld_stderr=0.002, n_chunks=40,
        n_ctx=512, corpus_sha256="c" * 64,
    )  # fmt: skip


def test_a_tie_by_two_errors_is_none_by_the_tokens_differences() -> None:
    rows = [row("plain", 0.080), row("awq", 0.077)]
    kept = {"plain.gguf": made(0.080, 1), "awq.gguf": made(0.077, 2)}
    (apart,), (together,), (half,) = (
        verdicts(rows, known) for known in (None, kept, {"awq.gguf": kept["awq.gguf"]})
    )
    assert "AWQ did not help (3.8% less, within the error)" in apart.sentence
    assert half == apart
    assert (apart.take, together.take) == ("plain", "awq")
    difference = kld_difference(kept["awq.gguf"], kept["plain.gguf"])
    assert difference is not None
    error = f"{difference.error / 0.08:.1%}"
    assert f"AWQ helped (3.8% ± {error} less)" in together.sentence
    assert "(more than the paired error)" in together.sentence


def test_what_is_within_the_paired_error_says_so() -> None:
    rows = [row("plain", 0.080), row("imatrix", 0.07999)]
    kept = {"plain.gguf": made(0.080, 1), "imatrix.gguf": made(0.07999, 2)}
    (found,) = verdicts(rows, kept)
    assert "no variant stands out" in found.sentence
    assert "(within the paired error)" in found.sentence


def test_losses_are_compared_by_what_both_have() -> None:
    a, b = (
        of_divergence(row(v, kld), made(kld, i)) for i, (v, kld) in enumerate([("plain", 0.08), ("awq", 0.077)], 1)
    )
    assert a is not None
    assert b is not None
    assert b.is_less_than(a)
    assert not a.is_less_than(b)
    assert b.less(a).is_paired
    assert not b.less(replace(a, scores=None)).is_paired
    assert not b.is_less_than(replace(a, scores=None))
