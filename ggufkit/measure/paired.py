"""How two files differ that were measured on the same tokens. Pure functions of what each token gave.

Where one file loses much another loses much, too: the error of their difference is far below their own two errors. The
tokens of a chunk are not independent of each other, chunks nearly are: errors are those between chunks, of ratios by
linearization (Cochran, Sampling Techniques, 3rd ed., section 6.3).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import TYPE_CHECKING

from ggufkit.llama.kld import Row

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SIGNIFICANT = 2.0
"""Standard errors that a difference must exceed before it is called one."""

_PRINTED = 1e-5
_FEWEST = 4
_MOST_ROUNDING = 0.5


@dataclass(frozen=True)
class Tokens:
    """Which tokens were scored, and against which base: files may be paired where all of it is equal."""

    corpus_sha256: str
    n_ctx: int
    n_chunks: int
    base_sha256: str


@dataclass(frozen=True, eq=False)
class Scores:
    """What the scored tokens of each chunk gave for a file.

    Args:
        kld: (n_chunks, n) KL divergence from the base in nats: of each token, or means of runs of tokens.
        ln_ratio: (n_chunks, n) ln(p of the base / p) of the true token; the mean is ln(PPL/PPL of the base).
        digit: the last digit of the running means that values were told from; 0 where nothing was rounded.
    """

    tokens: Tokens
    kld: NDArray[np.float64]
    ln_ratio: NDArray[np.float64]
    digit: float = 0.0


@dataclass(frozen=True)
class Contrast:
    """A difference or a ratio with its standard error, of `n` chunks; None where the errors of both sides were taken as
    independent of each other."""

    value: float
    error: float
    n: int | None = None

    @property
    def is_paired(self) -> bool:
        """Whether the error is that of the same tokens' differences."""
        return self.n is not None

    @property
    def is_real(self) -> bool:
        """Whether a difference is more than the error explains."""
        return abs(self.value) > _quantile(SIGNIFICANT, self.n) * self.error

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """What the true value lies within, with that probability."""
        half = _quantile(NormalDist().inv_cdf((1 + level) / 2), self.n) * self.error
        return self.value - half, self.value + half


def unpaired(a: tuple[float, float | None], b: tuple[float, float | None]) -> Contrast:
    """`a` less `b`, each a value and its standard error, as if they were independent. Of files that are alike that is too
    much; of files that differ much too little, for llama-perplexity's own errors take a chunk's tokens as independent."""
    return Contrast(a[0] - b[0], math.hypot(a[1] or 0.0, b[1] or 0.0))


def kld_difference(a: Scores, b: Scores) -> Contrast | None:
    """Mean KL divergence of `a` less that of `b`, in nats.

    Returns:
        None where they are not of the same tokens, are too few, or the digits that were printed hide the error.
    """
    return _difference(a, b, a.kld, b.kld)


def ln_ppl_ratio(a: Scores, b: Scores) -> Contrast | None:
    """ln(PPL of `a` / PPL of `b`); None as for `kld_difference`."""
    return _difference(a, b, a.ln_ratio, b.ln_ratio)


def kld_ratio(a: Scores, b: Scores) -> Contrast | None:
    """Mean KL divergence of `a` in parts of that of `b`; None as for `kld_difference`, and where `b` loses nothing."""
    if a.tokens != b.tokens or not b.kld.sum():
        return None
    tops, bottoms = a.kld.mean(axis=1), b.kld.mean(axis=1)
    share = float(tops.sum() / bottoms.sum())
    return _of_chunks(tops, bottoms, _rounding(a) + share**2 * _rounding(b))


def of_chunks(scores: Scores) -> Scores:
    """The same as means of chunks."""
    kld, ln_ratio = (values.mean(axis=1, keepdims=True) for values in (scores.kld, scores.ln_ratio))
    return replace(scores, kld=kld, ln_ratio=ln_ratio)


def from_rows(rows: Sequence[Row], tokens: Tokens) -> Scores:
    """Scores of whole chunks, from the running means that llama-perplexity prints.

    A chunk's own mean follows from two of them, k times the one less k - 1 times the other, and so does k times the
    rounding of their last digit: what that adds to the scatter of chunks is known, and is taken off.
    """
    import numpy as np

    def own(running: Sequence[float]) -> NDArray[np.float64]:
        sums = np.array(running) * np.arange(1, len(running) + 1)
        values: NDArray[np.float64] = np.diff(sums, prepend=0.0)[:, None]
        return values

    kld, ln_ratio = own([row.kld[0] for row in rows]), own([row.ln_ppl_ratio[0] for row in rows])
    return Scores(tokens, kld, ln_ratio, _PRINTED)


def _difference(a: Scores, b: Scores, of_a: NDArray[np.float64], of_b: NDArray[np.float64]) -> Contrast | None:
    import numpy as np

    if a.tokens != b.tokens:
        return None
    differences = of_a.mean(axis=1) - of_b.mean(axis=1)
    return _of_chunks(differences, np.ones_like(differences), _rounding(a) + _rounding(b))


def _of_chunks(tops: NDArray[np.float64], bottoms: NDArray[np.float64], rounding: float) -> Contrast | None:
    """The ratio of two sums over chunks, with the scatter of chunks around it, less what rounding adds."""
    n, whole = len(tops), float(bottoms.sum())
    value = float(tops.sum()) / whole
    seen = float(((tops - value * bottoms) ** 2).sum())
    if n < _FEWEST or (rounding and rounding > _MOST_ROUNDING * seen):
        return None
    return Contrast(value, math.sqrt((seen - rounding) * n / (n - 1)) / abs(whole), n)


def _rounding(scores: Scores) -> float:
    """What rounding adds to the sum of squares of chunks' means."""
    return scores.digit**2 / 12 * float(sum(k**2 + (k - 1) ** 2 for k in range(1, scores.tokens.n_chunks + 1)))


def _quantile(z: float, n: int | None) -> float:
    """That of Student's t with n - 1 degrees of freedom where the normal distribution has `z` (Abramowitz and Stegun,
    26.7.5)."""
    if n is None:
        return z
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / float(n - 1) ** k for k, term in enumerate(terms, 1))
