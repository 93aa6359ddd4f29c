"""TABLE of figures that others have published for known models, to hold one's own against."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ggufkit.report.data import Entry
from ggufkit.texts.corpus import WIKITEXT2_TEST_SHA256

_PARAMS_WITHIN = 0.02


@dataclass(frozen=True)
class Anchor:
    """One published figure: perplexity (dimensionless) or mean KL divergence (nats) of a variant and type."""

    variant: str
    type: str
    ppl: float | None = None
    kld: float | None = None


@dataclass(frozen=True)
class Published:
    """A model's published figures on wikitext-2's test split, 512 tokens of context, all chunks.

    Args:
        pattern: matches the model's name, so that a fine-tune of the same shape is not taken for it.
        n_params: weights of the model, matched within 2 %.
    """

    model: str
    pattern: str
    n_params: float
    anchors: tuple[Anchor, ...]


PUBLISHED = (
    Published(
        "Qwen2.5-0.5B-Instruct", r"qwen2[._-]?5[-_]0[._]5b[-_]instruct", 494.0e6,
        (
            Anchor("plain", "F16", 15.18), Anchor("plain", "Q8_0", 15.24), Anchor("plain", "Q5_K_M", 15.48),
            Anchor("plain", "Q4_K_M", 15.44), Anchor("plain", "Q4_0", 17.10),
        ),
    ),
    Published(
        "Llama-3-8B", r"(meta-)?llama-3-8b", 8.03e9,
        (
            Anchor("plain", "Q8_0", kld=0.001355), Anchor("plain", "Q6_K", kld=0.005452),
            Anchor("plain", "Q5_K_M", kld=0.010762), Anchor("plain", "Q4_K_M", kld=0.031273),
            Anchor("imatrix", "Q4_K_M", kld=0.028152),
        ),
    ),
    Published(
        "Mistral-7B", r"mistral-7b(-v0[._]1)?", 7.24e9,
        (
            Anchor("plain", "F16", 5.69), Anchor("plain", "Q4_K_M", 5.7518), Anchor("awq", "Q4_K_M", 5.7396),
            Anchor("imatrix", "Q4_K_M", 5.7353),
        ),
    ),
)  # fmt: skip


def published_for(entries: Sequence[Entry]) -> Published | None:
    """The published figures for the model of these entries, None if it is not known."""
    if not entries:
        return None
    row = entries[0].row
    for known in PUBLISHED:
        close = abs(row.n_params - known.n_params) <= _PARAMS_WITHIN * known.n_params
        if close and re.fullmatch(known.pattern, row.name.lower()):
            return known
    return None


def comparable(entry: Entry) -> bool:
    """Whether a row was measured as published figures are: the original text, 512 tokens, all chunks."""
    row = entry.row
    return row.corpus_sha256 == WIKITEXT2_TEST_SHA256 and row.n_ctx == 512 and entry.extent.whole


def anchor_for(entry: Entry, known: Published | None) -> Anchor | None:
    """The published figure for the same variant and type."""
    anchors = known.anchors if known is not None else ()
    return next((a for a in anchors if (a.variant, a.type) == (entry.row.variant, entry.row.type)), None)
