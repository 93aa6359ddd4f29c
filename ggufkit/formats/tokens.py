"""What is known of each scored token: what every statistic is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Tokens:
    """What is known of each scored token, all of shape (n_tokens,).

    Args:
        nll, nll_base: negative logarithm of its probability, in nats; the base's as it is saved.
        kld: nats of divergence from the base's saved probabilities.
        same_top: whether both hold the same token for the most likely one.
    """

    nll: NDArray[np.float64]
    nll_base: NDArray[np.float64]
    kld: NDArray[np.float64]
    same_top: NDArray[np.bool_]


def joined(parts: Sequence[Tokens]) -> Tokens:
    """Several, one after the other."""
    return Tokens(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(Tokens)))


def write_tokens(file: Path, tokens: Tokens) -> None:
    """Write them as .npz."""
    np.savez(file, allow_pickle=False, **{f.name: getattr(tokens, f.name) for f in fields(Tokens)})


def read_tokens(file: Path) -> Tokens:
    """Read what `write_tokens` wrote."""
    with np.load(file) as held:
        return Tokens(**{f.name: held[f.name] for f in fields(Tokens)})
