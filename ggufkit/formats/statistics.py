"""What llama-perplexity tells of a comparison, from the same numbers of each token.

Source: `tools/perplexity/perplexity.cpp`, `kl_divergence`; sums are of float64 here.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ggufkit.core.errors import InputError
from ggufkit.formats.tokens import Tokens
from ggufkit.llama.kld import PERCENTILES, Divergence, Mean

_FEWEST_FOR_ERROR = 10


def divergence(tokens: Tokens, n_chunks: int, n_ctx: int) -> Divergence:
    """The statistics over all tokens.

    Raises:
        InputError: the model gave what is no number.
    """
    if not (np.isfinite(tokens.nll).all() and np.isfinite(tokens.kld).all()):
        odd = int(np.argmin(np.isfinite(tokens.nll + tokens.kld)))
        message = (
            f"The model's predictions are not finite, first in chunk {1 + odd * n_chunks // len(tokens.nll)}."
        )
        raise InputError(message, hint="The checkpoint is broken, or its format is not what its config.json says.")
    ppl, base = (_perplexity(nll) for nll in (tokens.nll, tokens.nll_base))
    change = np.exp(-tokens.nll) - np.exp(-tokens.nll_base)
    return Divergence(
        n_chunks=n_chunks,
        n_ctx=n_ctx,
        ppl=ppl,
        ppl_base=base,
        ln_ppl_ratio=mean(tokens.nll - tokens.nll_base),
        kld=mean(tokens.kld),
        kld_percentiles={p: float(np.quantile(tokens.kld, p)) for p in PERCENTILES.values()},
        rms_dp=_root_of_squares(change),
        same_top_p=_share(tokens.same_top),
        rows=(),
    )


def mean(values: NDArray[np.float64]) -> Mean:
    """A mean and its standard error, 0 for ten values and fewer."""
    n = len(values)
    error = float(values.std()) / math.sqrt(n - 1) if n > _FEWEST_FOR_ERROR else 0.0
    return float(values.mean()), error


def _perplexity(nll: NDArray[np.float64]) -> Mean:
    value, error = mean(nll)
    return math.exp(value), math.exp(value) * error


def _root_of_squares(values: NDArray[np.float64]) -> Mean:
    value, error = mean(values**2)
    root = math.sqrt(value)
    return root, 0.5 * error / root if root else 0.0


def _share(values: NDArray[np.bool_]) -> Mean:
    share = float(values.mean())
    return share, math.sqrt(share * (1 - share) / (len(values) - 1))
