"""How much each file of a report loses, with its error, and what that is in plain words. Pure functions.

KL divergence says it best. Without one, ln(PPL/base) stands in: where the base predicts a text as it is distributed, both
have one expectation (Llama-3-8B, Q4_K_M: 0.028 and 0.031; Q3_K_M: 0.100 and 0.102). Of embeddings it is 1 - cosine
similarity.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ggufkit.core import variants
from ggufkit.core.records import ResultRow
from ggufkit.measure import paired
from ggufkit.measure.paired import Contrast, Scores
from ggufkit.report.data import Entry

_PLAINNESS = {
    v.name: i for i, v in enumerate(sorted(variants.VARIANTS, key=lambda v: (len(v.methods), v.imatrix)))
}


@dataclass(frozen=True)
class Grade:
    """What a file is like beside the base, in plain words, and what it must keep to for them.

    Args:
        kld: mean KL divergence in nats, or ln(PPL/base), at most.
        same_top: fraction of the tokens whose most likely successor is the base's, at least.
        cosine: mean similarity of embeddings, at least.
    """

    words: str
    kld: float
    same_top: float
    cosine: float


NEARLY_LOSSLESS = Grade("hard to tell from the base", 0.006, 0.95, 0.999)
GOOD = Grade("good for most uses", 0.05, 0.86, 0.99)
NOTICEABLE = Grade("noticeably worse", 0.2, 0.7, 0.95)
FAR = Grade("much worse", math.inf, 0.0, -1.0)
GRADES = (
    NEARLY_LOSSLESS,
    GOOD,
    Grade("a little worse", 0.1, 0.79, 0.98),
    NOTICEABLE,
    FAR,
)
"""The best first. By llama.cpp's figures for Llama-3-8B Q6_K is hard to tell from the base, Q5_K_M, Q4_K_M and IQ4_XS are
good for most uses, Q4_0 and Q3_K_M with a matrix a little worse, Q3_K_M and IQ3_XXS noticeably, Q2_K much."""


@dataclass(frozen=True)
class Loss:
    """What a file loses.

    Args:
        value, error: in nats, or of 1 - cosine similarity; the error is one standard error, 0 where none is known.
        share: of the loss that is still good for most uses.
        is_known: whether the value is the distance from a base, not only from the best file here.
        scores: what each token gave, where the value is their mean; None where that is not known.
    """

    value: float
    error: float
    grade: Grade
    share: float = 0.0
    is_known: bool = True
    scores: Scores | None = None

    def less(self, other: Loss) -> Contrast:
        """What is left of it without the other: by the differences of the same tokens where both have scores."""
        alone = paired.unpaired((self.value, self.error), (other.value, other.error))
        if self.scores is None or other.scores is None:
            return alone
        return paired.kld_difference(self.scores, other.scores) or alone

    def is_less_than(self, other: Loss) -> bool:
        """Whether it is less by more than the error of the difference."""
        difference = self.less(other)
        return difference.value < 0 and difference.is_real


def losses(entries: Sequence[Entry]) -> Mapping[str, Loss]:
    """The loss of each file that was measured, by file name; all of them may be compared with each other."""
    if any(e.row.kld_mean is not None for e in entries):
        return _of_each(entries, lambda e: of_divergence(e.row, e.scores))
    if any(e.row.cosine_mean is not None for e in entries):
        return _of_each(entries, lambda e: _dissimilarity(e.row))
    return _by_perplexity(entries)


def plainness(variant: str) -> int:
    """How little is done for a variant: to the weights above all; one that is not in the table comes last."""
    return _PLAINNESS.get(variant, len(_PLAINNESS))


def best_of_type(lost: Mapping[str, Loss]) -> str:
    """Of losses by variant the one to take: the plainest, unless others lose less by more than the error: then of these the
    plainest that ties with the best."""
    plain, *others = sorted(lost, key=plainness)
    best = min(lost.values(), key=lambda loss: loss.value)
    if not best.is_less_than(lost[plain]):
        return plain
    return next(v for v in others if lost[v].is_less_than(lost[plain]) and not best.is_less_than(lost[v]))


def measured(entry: Entry) -> float | None:
    """What drawings show: KL divergence, 1 - cosine similarity or perplexity. None where nothing was measured."""
    row = entry.row
    if row.kld_mean is not None:
        return row.kld_mean
    if row.cosine_mean is not None:
        return 1.0 - row.cosine_mean
    return 0.0 if entry.is_base else row.ppl


def is_base(entry: Entry) -> bool:
    """Whether others are compared with this file, or were made from it where nothing is compared."""
    return entry.is_base or (entry.is_start and entry.row.kld_mean is None)


def of_divergence(row: ResultRow, scores: Scores | None = None) -> Loss | None:
    """The loss that a row's KL divergence tells, and its tokens' scores; None where it was not measured."""
    if row.kld_mean is None:
        return None
    top = 1.0 if row.same_top_p is None else row.same_top_p
    grade = next(g for g in GRADES if row.kld_mean <= g.kld and top >= g.same_top)
    return Loss(row.kld_mean, row.kld_stderr or 0.0, grade, row.kld_mean / GOOD.kld, scores=scores)


def _of_each(entries: Sequence[Entry], measure: Callable[[Entry], Loss | None]) -> dict[str, Loss]:
    found = {e.row.file: Loss(0.0, 0.0, NEARLY_LOSSLESS) if e.is_base else measure(e) for e in entries}
    return {file: loss for file, loss in found.items() if loss is not None}


def _dissimilarity(row: ResultRow) -> Loss | None:
    if row.cosine_mean is None:
        return None
    grade = next(g for g in GRADES if row.cosine_mean >= g.cosine)
    value = 1.0 - row.cosine_mean
    return Loss(value, row.cosine_stderr or 0.0, grade, value / (1.0 - GOOD.cosine))


def _by_perplexity(entries: Sequence[Entry]) -> dict[str, Loss]:
    """ln(PPL/base), or against the lowest perplexity here. Its error is the perplexity's own, which overstates it."""
    measured = {e.row.file: e for e in entries if e.row.ppl is not None}
    base = next((e.row.ppl for e in measured.values() if is_base(e)), None)
    reference = base or min((e.row.ppl or 0.0 for e in measured.values()), default=0.0)
    return {file: _ratio(e.row, reference, is_known=base is not None) for file, e in measured.items()}


def _ratio(row: ResultRow, reference: float, *, is_known: bool) -> Loss:
    ppl = row.ppl or math.nan
    value = math.log(ppl / reference)
    grade = next(g for g in GRADES if value <= g.kld)
    return Loss(value, (row.ppl_stderr or 0.0) / ppl, grade, max(value, 0.0) / GOOD.kld, is_known)
