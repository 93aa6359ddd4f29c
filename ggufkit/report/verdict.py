"""What the variants of a type are worth, in one plain sentence each. Pure functions of result rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ggufkit.core.records import ResultRow
from ggufkit.core.variants import VARIANTS
from ggufkit.report.losses import SIGNIFICANT

_WITHOUT_AWQ = {
    scaled.name: other.name
    for scaled in VARIANTS
    for other in VARIANTS
    if scaled.awq and not other.awq and (scaled.imatrix, scaled.refined) == (other.imatrix, other.refined)
}


@dataclass(frozen=True)
class Verdict:
    """The best variant of a type, and the sentence that says by how much."""

    type: str
    best: str
    sentence: str


@dataclass(frozen=True)
class _Gap:
    """How much lower `a`'s KL divergence is than `b`'s: as a fraction of `b`'s, and in standard errors."""

    gain: float
    sigmas: float

    @property
    def real(self) -> bool:
        return abs(self.sigmas) > SIGNIFICANT


def verdicts(rows: Sequence[ResultRow]) -> tuple[Verdict, ...]:
    """One verdict for each type that has several variants measured on the same chunks; large types first.

    Both variants are compared with one base on the same tokens. Their errors are taken as independent, which
    overstates the error of the difference: what is called a gain is one.
    """
    groups: dict[str, list[ResultRow]] = {}
    for row in rows:
        if row.kld_mean is not None:
            groups.setdefault(row.type, []).append(row)
    found = [v for kind, group in groups.items() if (v := _verdict(kind, group)) is not None]
    return tuple(sorted(found, key=lambda v: -groups[v.type][0].size_bytes))


def _verdict(kind: str, group: Sequence[ResultRow]) -> Verdict | None:
    by_variant = {row.variant: row for row in group if _chunks(row) == _chunks(group[0])}
    if len(by_variant) < 2:
        return None
    best = min(by_variant.values(), key=lambda row: row.kld_mean or 0.0)
    plain = by_variant.get("plain")
    reference = plain if plain is not None and plain is not best else _second(by_variant, best)
    gap = _gap(best, reference)
    remarks = [remark for name in _WITHOUT_AWQ if (remark := _on_awq(name, by_variant))]
    sentence = f"{kind}: {_praise(best, reference, gap)}{''.join('; ' + r for r in remarks)}."
    return Verdict(kind, best.variant, sentence)


def _chunks(row: ResultRow) -> tuple[str | None, int | None, int | None]:
    return row.corpus_sha256, row.n_ctx, row.n_chunks


def _second(by_variant: dict[str, ResultRow], best: ResultRow) -> ResultRow:
    others = [row for row in by_variant.values() if row is not best]
    return min(others, key=lambda row: row.kld_mean or 0.0)


def _gap(a: ResultRow, b: ResultRow) -> _Gap:
    difference = (b.kld_mean or 0.0) - (a.kld_mean or 0.0)
    error = math.hypot(a.kld_stderr or 0.0, b.kld_stderr or 0.0)
    gain = difference / b.kld_mean if b.kld_mean else 0.0
    return _Gap(gain, difference / error if error else math.copysign(math.inf, difference) if difference else 0.0)


def _praise(best: ResultRow, reference: ResultRow, gap: _Gap) -> str:
    value = f"KLD {best.kld_mean:.5f}" + (f" ± {best.kld_stderr:.5f}" if best.kld_stderr is not None else "")
    against = f"{gap.gain:.1%} below {reference.variant}'s {reference.kld_mean:.5f}"
    if not gap.real:
        return f"no variant stands out; {best.variant} is lowest, {value}, {against} (within the error)"
    return f"{best.variant} is best, {value}, {against} (more than the error)"


def _on_awq(name: str, by_variant: dict[str, ResultRow]) -> str | None:
    """What scaling by AWQ did for a variant that is there with and without it."""
    without = by_variant.get(_WITHOUT_AWQ[name])
    if name not in by_variant or without is None:
        return None
    gap, beside = _gap(by_variant[name], without), "" if name == "awq" else f" with {without.variant}"
    if gap.real and gap.gain > 0:
        return f"AWQ helped{beside} ({gap.gain:.1%} less)"
    if gap.real:
        return f"AWQ made it worse{beside} ({-gap.gain:.1%} more)"
    return f"AWQ did not help{beside} ({-gap.gain:+.1%}, within the error)"
