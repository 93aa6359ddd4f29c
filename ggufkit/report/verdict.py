"""What the variants are worth: in three lines, and in one plain sentence for each type. Pure functions of result rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from ggufkit.core.records import ResultRow
from ggufkit.core.variants import VARIANTS
from ggufkit.measure import paired
from ggufkit.measure.paired import Scores
from ggufkit.report.losses import Loss, best_of_type, of_divergence, plainness

T = TypeVar("T")

_MOST_NAMES = 4
_WITHOUT_AWQ = {
    scaled.name: other.name
    for scaled in VARIANTS
    for other in VARIANTS
    if scaled.awq and not other.awq and (scaled.imatrix, scaled.refined) == (other.imatrix, other.refined)
}


@dataclass(frozen=True)
class Verdict:
    """What the variants of a type are worth.

    Args:
        best: the variant with the lowest KL divergence.
        take: the one to take, by `losses.best_of_type`.
        plainest: of those measured; gain: how much less `take` loses than it, as a fraction.
        worse: variants that lose more than the plainest, by more than the error.
        variants: all that were measured.
        sentence: all of it.
    """

    type: str
    best: str
    take: str
    plainest: str
    gain: float
    worse: tuple[str, ...]
    variants: tuple[str, ...]
    sentence: str


@dataclass(frozen=True)
class Case:
    """A file, and what it loses."""

    row: ResultRow
    loss: Loss

    @property
    def variant(self) -> str:
        """What was done for it."""
        return self.row.variant


@dataclass(frozen=True)
class Gap:
    """How much lower one KL divergence is than another, as a fraction of that, with its error; is it more than that?"""

    gain: float
    error: float
    real: bool
    is_paired: bool

    @property
    def words(self) -> str:
        """Of a gain or loss."""
        return f"{abs(self.gain):.1%}" + (f" ± {self.error:.1%}" if self.is_paired else "")

    @property
    def judged(self) -> str:
        """By which error it is told, in words."""
        return "paired error" if self.is_paired else "error"


def verdicts(rows: Sequence[ResultRow], scores: Mapping[str, Scores] | None = None) -> tuple[Verdict, ...]:
    """One verdict for each type that has several variants measured on the same chunks; large types first.

    Both variants are compared with one base on the same tokens: where what each token gave is known of both, the error is
    that of the differences. Else their errors are taken as independent, which is too much for variants that are alike.

    Args:
        scores: of files, by their names.
    """
    groups: dict[str, list[Case]] = {}
    for row in rows:
        if (loss := of_divergence(row, (scores or {}).get(row.file))) is not None:
            groups.setdefault(row.type, []).append(Case(row, loss))
    found = [v for kind, group in groups.items() if (v := _verdict(kind, group)) is not None]
    return tuple(sorted(found, key=lambda v: -groups[v.type][0].row.size_bytes))


def in_short(found: Sequence[Verdict]) -> tuple[str, ...]:
    """What is worth knowing of all, in three lines at most: what wins where, where nothing does, what never does."""
    return tuple(line for line in (_wins(found), _ties(found), _in_vain(found)) if line)


def _wins(found: Sequence[Verdict]) -> str:
    groups = _grouped([v for v in found if v.take != v.plainest], lambda v: (v.take, v.plainest))
    ordered = sorted(groups.items(), key=lambda item: -len(item[1]))
    return f"By KL divergence {'; '.join(_win(*names, members) for names, members in ordered)}." if ordered else ""


def _win(take: str, plainest: str, members: Sequence[Verdict]) -> str:
    low, high = (f"{pick(v.gain for v in members):.0%}" for pick in (min, max))
    gain = low if low == high else f"{low} to {high}"
    return f"{take} wins for {_types(members)} ({gain} below {plainest})"


def _ties(found: Sequence[Verdict]) -> str:
    groups = _grouped([v for v in found if v.take == v.plainest], lambda v: v.plainest)
    said = [f"{plainest} for {_types(members)}" for plainest, members in groups.items()]
    return f"Nothing beats {', or '.join(said)} by more than the error." if said else ""


def _in_vain(found: Sequence[Verdict]) -> str:
    """Variants that are nowhere the one to take, and where they lose more than the plainest."""
    useful = {name for v in found for name in (v.take, v.plainest)}
    vain = [name for name in dict.fromkeys(name for v in found for name in v.variants) if name not in useful]
    if not vain:
        return ""
    harm = [(name, [v for v in found if name in v.worse]) for name in vain]
    said = "".join(f"; {name} loses more for {_types(members)}" for name, members in harm if members)
    return f"{listed(vain)} {'is' if len(vain) == 1 else 'are'} best nowhere{said}."


def _grouped(found: Sequence[Verdict], key: Callable[[Verdict], T]) -> dict[T, list[Verdict]]:
    groups: dict[T, list[Verdict]] = {}
    for verdict in found:
        groups.setdefault(key(verdict), []).append(verdict)
    return groups


def _types(members: Sequence[Verdict]) -> str:
    return listed([v.type for v in members])


def listed(names: Sequence[str]) -> str:
    shown = list(names) if len(names) <= _MOST_NAMES else [*names[: _MOST_NAMES - 1]]
    rest = [f"{len(names) - len(shown)} more"] if len(names) > len(shown) else []
    *before, last = [*shown, *rest]
    return f"{', '.join(before)} and {last}" if before else last


def _verdict(kind: str, group: Sequence[Case]) -> Verdict | None:
    by_variant = {case.variant: case for case in group if _chunks(case.row) == _chunks(group[0].row)}
    if len(by_variant) < 2:
        return None
    best = min(by_variant.values(), key=lambda case: case.loss.value)
    take = by_variant[best_of_type({v: case.loss for v, case in by_variant.items()})]
    plainest = by_variant[min(by_variant, key=plainness)]
    remarks = [remark for name in _WITHOUT_AWQ if (remark := _on_awq(name, by_variant))]
    sentence = f"{kind}: {_praise(best, take, by_variant)}{''.join('; ' + r for r in remarks)}."
    worse = tuple(v for v, case in by_variant.items() if (gap := difference(case, plainest)).real and gap.gain < 0)
    gain, names = difference(take, plainest).gain, tuple(by_variant)
    return Verdict(kind, best.variant, take.variant, plainest.variant, gain, worse, names, sentence)


def _chunks(row: ResultRow) -> tuple[str | None, int | None, int | None]:
    return row.corpus_sha256, row.n_ctx, row.n_chunks


def difference(a: Case, b: Case) -> Gap:
    """How much less a file loses than another of the same model that was measured on the same text."""
    found, whole = a.loss.less(b.loss), b.loss.value
    gain, error = (-found.value / whole, found.error / whole) if whole else (0.0, 0.0)
    if found.is_paired and a.loss.scores is not None and b.loss.scores is not None:
        # What is hard for both is hard for both by as much: the ratio is known better than the difference.
        ratio = paired.kld_ratio(a.loss.scores, b.loss.scores)
        error = error if ratio is None else ratio.error
    return Gap(gain, error, found.is_real, found.is_paired)


def _praise(best: Case, take: Case, by_variant: Mapping[str, Case]) -> str:
    """The lowest one against the plainest, and the one to take where that is as good; or that none stands out."""
    ordered = sorted(by_variant.values(), key=lambda case: plainness(case.variant))
    rival = next((case for case in ordered if case is not best and not difference(best, case).real), None)
    if take is ordered[0] and rival is not None:
        low = (
            f"{best.variant} is lowest, {_value(best)}, {_below(best, rival)} (within the {_judged(best, rival)})"
        )
        return f"no variant stands out; {low}"
    reference = ordered[0] if best is not ordered[0] else min(ordered[1:], key=lambda case: case.loss.value)
    judged = _judged(best, reference)
    praise = f"{_value(best)}, {_below(best, reference)} (more than the {judged})"
    if take is best:
        return f"{best.variant} is best, {praise}"
    return f"{best.variant} is lowest, {praise}; {take.variant} is as good within the {_judged(best, take)}"


def _judged(a: Case, b: Case) -> str:
    return difference(a, b).judged


def _value(case: Case) -> str:
    row = case.row
    return f"KLD {row.kld_mean:.5f}" + (f" ± {row.kld_stderr:.5f}" if row.kld_stderr is not None else "")


def _below(case: Case, other: Case) -> str:
    return f"{difference(case, other).words} below {other.variant}'s {other.row.kld_mean:.5f}"


def _on_awq(name: str, by_variant: Mapping[str, Case]) -> str | None:
    """What scaling by AWQ did for a variant that is there with and without it."""
    without = by_variant.get(_WITHOUT_AWQ[name])
    if name not in by_variant or without is None:
        return None
    gap, beside = difference(by_variant[name], without), "" if name == "awq" else f" with {without.variant}"
    if gap.real and gap.gain > 0:
        return f"AWQ helped{beside} ({gap.words} less)"
    if gap.real:
        return f"AWQ made it worse{beside} ({gap.words} more)"
    more = "more" if gap.gain < 0 else "less"
    return f"AWQ did not help{beside} ({gap.words} {more}, within the {gap.judged})"
