"""What a refinement did: the numbers, and why what stayed did so."""

from __future__ import annotations

import resource
import sys
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass

from ggufkit.core.records import Tensor
from ggufkit.llama import mtp
from ggufkit.llama.gguf import EMBEDDING, OUTPUT, quantized_tensors
from ggufkit.refine.norms import Tuning
from ggufkit.refine.state import Outcome
from ggufkit.refine.tensors import Pair


@dataclass(frozen=True)
class RefineResult:
    """What a refinement did.

    Args:
        outcomes: one for each matrix that was tried.
        untouched: quantized tensors of which a part or all stays as it was, and why.
        seconds, peak_ram_bytes: wall time, and the most memory that this process has had.
        tuning: what came of distilling, or of tuning the norms; None if it was not asked for.
    """

    outcomes: tuple[Outcome, ...]
    untouched: Mapping[str, str]
    n_tokens: int
    device: str
    seconds: float
    peak_ram_bytes: int
    tuning: Tuning | None = None

    @property
    def n_refined(self) -> int:
        """Tensors that are better than they were, wholly or in part."""
        return len({o.tensor for o in self.outcomes if o.kept})


def untouched(pair: Pair, outcomes: Sequence[Outcome], learnt: Container[str] = ()) -> dict[str, str]:
    """Why each quantized tensor that is not wholly new, nor among the `learnt` ones, is as it was."""
    tried = {o.tensor for o in outcomes}
    reasons = {t.name: _why_not(pair, t) for t in quantized_tensors(pair.quantized) if t.name not in tried}
    for outcome in outcomes:
        if not outcome.kept:
            where = "" if outcome.expert is None else f"expert {outcome.expert}: "
            before = reasons.get(outcome.tensor)
            reasons[outcome.tensor] = "; ".join(filter(None, (before, where + outcome.reason)))
    return {name: reason for name, reason in reasons.items() if name not in learnt}


def _why_not(pair: Pair, tensor: Tensor) -> str:
    if tensor.name in (EMBEDDING, OUTPUT):
        return "the embedding and the output stay as they are"
    if tensor.name in mtp.tensors(pair.quantized):
        return "it predicts further tokens: no text runs through it"
    if pair.codec(tensor.name) is None:
        return f"{tensor.type} is not among the types that can be refined"
    return "not a linear of a decoder layer, or the calibration text repeats itself"


def peak_ram() -> int:
    """The most memory that this process has had, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
