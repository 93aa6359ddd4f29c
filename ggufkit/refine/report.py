"""What a refinement did, in words and numbers."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ggufkit.core.progress import Progress
from ggufkit.core.records import Tensor
from ggufkit.llama.gguf import quantized_tensors
from ggufkit.refine.norms import Tuning
from ggufkit.refine.state import Outcome
from ggufkit.refine.tensors import Pair


@dataclass(frozen=True)
class RefineReport:
    """What a refinement did.

    Args:
        outcomes: one for each matrix that was tried.
        untouched: quantized tensors of which a part or all stays as it was, and why.
        seconds, peak_ram_bytes: wall time, and the most memory that this process has had.
        tuning: what came of tuning the norms; None if it was not asked for.
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


def untouched(pair: Pair, outcomes: Sequence[Outcome]) -> dict[str, str]:
    """Why each quantized tensor that is not wholly new is as it was."""
    tried = {o.tensor for o in outcomes}
    reasons = {t.name: _why_not(pair, t) for t in quantized_tensors(pair.quantized) if t.name not in tried}
    for outcome in outcomes:
        if not outcome.kept:
            where = "" if outcome.expert is None else f"expert {outcome.expert}: "
            before = reasons.get(outcome.tensor)
            reasons[outcome.tensor] = "; ".join(filter(None, (before, where + outcome.reason)))
    return reasons


def _why_not(pair: Pair, tensor: Tensor) -> str:
    if tensor.name in ("token_embd.weight", "output.weight"):
        return "the embedding and the output stay as they are"
    if pair.codec(tensor.name) is None:
        return f"{tensor.type} is not among the types that can be refined"
    return "not a linear of a decoder layer, or the calibration text repeats itself"


def peak_ram() -> int:
    """The most memory that this process has had, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


@dataclass
class Pace:
    """Reports how far a step is, and how long it will still take at the pace so far.

    Args:
        progress: where to.
        first, total: the unit at which this run starts, and their number.
    """

    progress: Progress
    first: float
    total: float
    started: float = field(default_factory=time.monotonic)

    def at(self, done: float, what: str) -> None:
        """`done` units are finished and `what` is next."""
        gone, share = time.monotonic() - self.started, (done - self.first) / (self.total - self.first)
        note = what if share <= 0 else f"{what}, {_duration(gone / share - gone)} left"
        self.progress.update(done, self.total, note)


@dataclass(frozen=True)
class Part:
    """A part of a step: it begins at `first` units, and each of its own is `worth` so much of them."""

    pace: Pace
    first: float
    worth: float
    what: str

    def at(self, done: int) -> None:
        """`done` of the part's own units are finished."""
        self.pace.at(self.first + done * self.worth, self.what)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
