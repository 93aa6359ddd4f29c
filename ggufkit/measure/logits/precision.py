"""How many chunks are enough for a precision that was asked for. Pure functions of the statistics.

The tool's standard errors count tokens as independent. Those of one chunk are not: chunks differ by more than
their tokens explain, on real text by twice as much. The scatter between chunks is therefore taken into account.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from statistics import fmean, stdev

from ggufkit.llama.kld import Divergence, Mean

LN_RATIO_ERROR = 0.002
"""The standard error of ln(PPL ratio) that is enough whatever the relative precision of KL divergence."""

PILOT = 24
_STEP = 4
_MARGIN = 1.1
_LAST_DIGIT = 1e-5
_USUAL = 2.0


def chunks_needed(results: Sequence[Divergence], precision: float) -> int:
    """Chunks after which the standard errors of mean KLD are `precision` of it, and those of ln(PPL ratio) 0.002.

    Args:
        results: of several files on the same chunks.

    Returns:
        The number of chunks that there are when they are enough; else an extrapolation, with a margin.
    """
    n = results[0].n_chunks
    by_kld = _inflation([([row.kld for row in d.rows], d.kld[1]) for d in results], _USUAL)
    by_ratio = _inflation([([row.ln_ppl_ratio for row in d.rows], d.ln_ppl_ratio[1]) for d in results], 1.0)
    of_kld = [_said(d.kld) * by_kld / (precision * abs(d.kld[0])) for d in results if d.kld[0]]
    of_ratio = [_said(d.ln_ppl_ratio) * by_ratio / LN_RATIO_ERROR for d in results]
    excess = max(of_kld + of_ratio)
    return n if excess <= 1 else math.ceil(n * excess**2 * _MARGIN / _STEP) * _STEP


def _said(value: Mean) -> float:
    """The tool's error; 0 where it printed none, for a file that equals its base."""
    return value[1] if math.isfinite(value[1]) else 0.0


def _inflation(running: Sequence[tuple[Sequence[Mean], float]], unknown: float) -> float:
    """By how much the true standard errors exceed the tool's: the most that any of the files shows, 1 at least;
    `unknown` where none of them shows anything."""
    shown = [ratio for means, said in running if (ratio := _scatter(means, said)) is not None]
    return max([1.0, *shown]) if shown else unknown


def _scatter(running: Sequence[Mean], said: float) -> float | None:
    """The standard error between chunks over the tool's, or None when rounding hides it.

    A chunk's own mean follows from two running means, k times the one less k - 1 times the other, and so does
    the rounding of their last digit.
    """
    n = len(running)
    if n < PILOT or not said or not math.isfinite(said):
        return None
    sums = [0.0, *(mean * k for k, (mean, _) in enumerate(running, 1))]
    seen = stdev(b - a for a, b in pairwise(sums)) ** 2
    rounding = fmean(k**2 + (k - 1) ** 2 for k in range(1, n + 1)) * _LAST_DIGIT**2 / 12
    true = seen - rounding
    return math.sqrt(true / n) / said if true > rounding else None
