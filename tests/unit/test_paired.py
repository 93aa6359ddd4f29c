"""Two files on the same tokens: the error of their difference covers what it promises, and is far below their own two."""

from __future__ import annotations

import math
from dataclasses import replace
from statistics import fmean, stdev

import numpy as np
import pytest
from numpy.typing import NDArray

from ggufkit.llama.kld import Row, scored
from ggufkit.measure.paired import (
    Contrast,
    Scores,
    Tokens,
    _quantile,
    from_rows,
    kld_difference,
    kld_ratio,
    ln_ppl_ratio,
    unpaired,
)

N_CTX = 512
SCORED = scored(N_CTX, 1)


def tokens(n_chunks: int, n_ctx: int = N_CTX) -> Tokens:
    return Tokens("text", n_ctx, n_chunks, "base")


def scores(kld: NDArray[np.float64], ln_ratio: NDArray[np.float64] | None = None) -> Scores:
    return Scores(tokens(len(kld)), kld, kld / 2 if ln_ratio is None else ln_ratio)


def planted(rng: np.random.Generator, a: float, b: float, n_chunks: int = 40) -> tuple[Scores, Scores]:
    """Two files whose true mean KL divergences are `a` and `b`: a token that is hard for one is hard for the other, and
    the chunks' own ways with each of them make tokens of one chunk hang together."""

    def around_one(sigma: float, shape: tuple[int, ...]) -> NDArray[np.float64]:
        return np.exp(sigma * rng.standard_normal(shape) - sigma**2 / 2)

    hard = around_one(1.0, (n_chunks, SCORED)) * around_one(0.3, (n_chunks, 1))
    own = [around_one(0.4, (n_chunks, SCORED)) * around_one(0.1, (n_chunks, 1)) for _ in range(2)]
    return scores(a * hard * own[0]), scores(b * hard * own[1])


def rows(kld: NDArray[np.float64], ln_ratio: NDArray[np.float64]) -> list[Row]:
    """What llama-perplexity prints of it: running means of five digits."""
    counts = SCORED * np.arange(1, len(kld) + 1)
    running = [np.round(values.sum(axis=1).cumsum() / counts, 5) for values in (kld, ln_ratio)]
    nothing = (0.0, 0.0)
    return [
        Row(k, nothing, (float(ratio), 0.0), (float(kl), 0.0), nothing, nothing)
        for k, (kl, ratio) in enumerate(zip(*running, strict=True), 1)
    ]


def of(contrast: Contrast | None) -> Contrast:
    assert contrast is not None
    assert contrast.is_paired
    return contrast


def test_the_interval_covers_the_known_difference() -> None:
    rng, inside = np.random.default_rng(20), 0
    for _ in range(200):
        low, high = of(kld_difference(*planted(rng, 0.080, 0.078))).interval(0.95)
        inside += low <= 0.002 <= high
    assert 0.93 <= inside / 200 <= 0.97


def test_the_interval_of_a_ratio_covers_it() -> None:
    rng, inside = np.random.default_rng(21), 0
    for _ in range(200):
        low, high = of(kld_ratio(*planted(rng, 0.06, 0.08))).interval(0.95)
        inside += low <= 0.75 <= high
    assert 0.93 <= inside / 200 <= 0.97


def test_a_difference_that_two_errors_hide_is_told() -> None:
    a, b = planted(np.random.default_rng(1), 0.080, 0.072)
    found = of(kld_difference(a, b))
    own = [(float(s.kld.mean()), stdev(s.kld.mean(axis=1)) / math.sqrt(len(s.kld))) for s in (a, b)]
    apart = unpaired(*own)
    assert found.value == pytest.approx(apart.value)
    assert found.is_real
    assert not apart.is_real
    assert not apart.is_paired
    assert found.error < apart.error / 2


def test_the_error_is_that_between_chunks() -> None:
    a, b = planted(np.random.default_rng(2), 0.08, 0.06)
    of_chunks = list((a.kld - b.kld).mean(axis=1))
    found = of(kld_difference(a, b))
    assert found.n == 40
    assert found.value == pytest.approx(fmean(of_chunks))
    assert found.error == pytest.approx(stdev(of_chunks) / math.sqrt(40))
    ratio = of(ln_ppl_ratio(a, b))
    assert ratio.value == pytest.approx(found.value / 2)
    assert ratio.error == pytest.approx(found.error / 2)


def test_few_chunks_have_a_wide_interval_and_next_to_none_have_none() -> None:
    rng, inside = np.random.default_rng(34), 0
    for _ in range(200):
        low, high = of(kld_difference(*planted(rng, 0.080, 0.078, n_chunks=5))).interval(0.95)
        inside += low <= 0.002 <= high
    assert 0.93 <= inside / 200 <= 0.97
    assert kld_difference(*planted(rng, 0.08, 0.06, n_chunks=3)) is None


def test_a_file_does_not_differ_from_itself() -> None:
    a, _ = planted(np.random.default_rng(4), 0.08, 0.06)
    assert kld_difference(a, a) == Contrast(0.0, 0.0, 40)
    assert not Contrast(0.0, 0.0, 40).is_real
    assert Contrast(1e-9, 0.0, 40).is_real


def test_what_was_measured_otherwise_is_not_paired() -> None:
    a, b = planted(np.random.default_rng(5), 0.08, 0.06)
    t = b.tokens
    for other in (
        replace(t, corpus_sha256="x"), replace(t, base_sha256="x"), replace(t, n_ctx=256), replace(t, n_chunks=39),
    ):  # fmt: skip
        apart = replace(b, tokens=other)
        assert (kld_difference(a, apart), ln_ppl_ratio(a, apart), kld_ratio(a, apart)) == (None, None, None)


def test_nothing_lost_has_no_parts() -> None:
    a, _ = planted(np.random.default_rng(6), 0.08, 0.06)
    assert kld_ratio(a, replace(a, kld=0 * a.kld)) is None


def test_printed_chunks_do_where_no_tokens_are_kept() -> None:
    exact = planted(np.random.default_rng(7), 0.080, 0.072, n_chunks=100)
    printed = [from_rows(rows(s.kld, s.ln_ratio), s.tokens) for s in exact]
    known, told = of(kld_difference(*exact)), of(kld_difference(printed[0], printed[1]))
    assert told.value == pytest.approx(known.value, abs=1e-5)
    assert told.error == pytest.approx(known.error, rel=0.1)
    mixed = of(kld_difference(exact[0], printed[1]))
    assert mixed.error == pytest.approx(known.error, rel=0.1)
    assert of(kld_ratio(exact[0], printed[1])).error == pytest.approx(of(kld_ratio(*exact)).error, rel=0.1)


def test_what_rounding_hides_is_not_told() -> None:
    exact = planted(np.random.default_rng(8), 0.00041, 0.00040, n_chunks=400)
    printed = [from_rows(rows(s.kld, s.ln_ratio), s.tokens) for s in exact]
    assert of(kld_difference(*exact)).error < 1e-5
    assert kld_difference(printed[0], printed[1]) is None


@pytest.mark.parametrize("n", [6, 12, 20, 40, 600])
@pytest.mark.parametrize("level", [0.9, 0.95, 0.99])
def test_few_clusters_have_wider_intervals_as_students_t_has(n: int, level: float) -> None:
    stats = pytest.importorskip("scipy.stats")
    low, high = Contrast(1.0, 0.1, n).interval(level)
    assert (high - 1.0) / 0.1 == pytest.approx(stats.t.ppf((1 + level) / 2, n - 1), rel=0.01)
    assert low == pytest.approx(2.0 - high)
    assert Contrast(1.0, 0.1).interval(level)[1] == pytest.approx(1.0 + 0.1 * stats.norm.ppf((1 + level) / 2))
    assert _quantile(2.0, n) > 2.0
