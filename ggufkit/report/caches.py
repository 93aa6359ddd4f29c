"""What longer contexts and smaller KV caches cost: which cache is harmless for a model, and all that was measured.

Pure functions. A cache is judged by the base alone: what it predicts with that cache, against itself with an F16 one in the
same context. So nothing is in the figure but the cache.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from ggufkit.core.records import F16, Conditions
from ggufkit.llama import kv_cache
from ggufkit.measure import paired
from ggufkit.measure.paired import SIGNIFICANT
from ggufkit.report.conditions import Measured, Table
from ggufkit.report.losses import GRADES, NEARLY_LOSSLESS, Grade

_ORDER = {kind: i for i, kind in enumerate((F16, *kv_cache.TYPES))}
_Run = tuple[str, int | None, str]
Number = tuple[float, float | None]
"""A value and its standard error."""


@dataclass(frozen=True)
class Line:
    """A file with one KV cache in one context.

    Args:
        ppl: perplexity.
        kld, same_top: against the base with an F16 cache in the same context and text.
        added: nats of KL divergence more than the same file has with an F16 cache, with the error of the same tokens'
            differences where these were kept; None for those.
        pp, tg: tokens/s behind a context of so many tokens.
    """

    file: str
    text: str
    n_ctx: int
    kv_type: str
    ppl: Number | None
    kld: Number | None
    same_top: Number | None
    added: Number | None
    pp: Number | None
    tg: Number | None


@dataclass(frozen=True)
class Judged:
    """What a KV cache alone does to a model.

    Args:
        worst: KL divergence of the base from itself, in the context where it is most; and that context.
        contexts: in which it was measured, in tokens.
    """

    kv_type: str
    worst: Number
    worst_ctx: int
    contexts: tuple[int, ...]
    grade: Grade

    @property
    def is_harmless(self) -> bool:
        """Whether the base with this cache is hard to tell from itself, error included."""
        return self.grade is NEARLY_LOSSLESS

    @property
    def sentence(self) -> str:
        """All of it in a sentence."""
        value, error = self.worst
        said = f"KLD {value:.2g}" + ("" if not error else f" ± {error:.1g}")
        at = f"at {' and '.join(f'{n:,}' for n in self.contexts)} tokens"
        most = f", most at {self.worst_ctx:,}" if len(self.contexts) > 1 else ""
        share = kv_cache.instead_of_f16(1 << 20, self.kv_type) / (1 << 20)
        takes = f"takes {share:.0%} of an F16 cache's memory"
        judged = (
            "harmless for this model" if self.is_harmless else f"not harmless for this model ({self.grade.words})"
        )
        return f"A KV cache in {self.kv_type} is {judged}: {said} of the base {at}{most}. It {takes}."


@dataclass(frozen=True)
class Further:
    """What was measured besides the table: nothing where `lines` is empty."""

    judged: tuple[Judged, ...] = ()
    lines: tuple[Line, ...] = ()

    @property
    def sentences(self) -> list[str]:
        """What to know of each cache, the harmless first."""
        return [one.sentence for one in self._in_order]

    @property
    def warnings(self) -> list[str]:
        """Those of caches that are not harmless."""
        return [one.sentence for one in self._in_order if not one.is_harmless]

    @property
    def harmless(self) -> list[str]:
        """Those of the others."""
        return [one.sentence for one in self._in_order if one.is_harmless]

    @property
    def finding(self) -> str:
        """The contexts and caches, and the worst of them, in a line; `lines` is not empty."""
        contexts = " and ".join(f"{n:,}" for n in sorted({line.n_ctx for line in self.lines}))
        kinds = ", ".join(sorted({line.kv_type for line in self.lines}, key=lambda kind: _ORDER.get(kind, 0)))
        return " ".join(part for part in (f"{contexts} tokens; {kinds}.", self._worst) if part)

    @property
    def _in_order(self) -> list[Judged]:
        return sorted(self.judged, key=lambda one: one.worst[0])

    @property
    def _worst(self) -> str:
        if self.judged:
            most = self._in_order[-1]
            return f"Worst: {most.kv_type}, KLD {most.worst[0]:.2g} of the base at {most.worst_ctx:,} tokens."
        far = max(
            (line for line in self.lines if line.kld), key=lambda line: line.kld or (0.0, None), default=None
        )
        if far is not None and far.kld is not None:
            return f"Worst: {far.file} at {far.n_ctx:,} tokens, KLD {far.kld[0]:.2g}."
        return ""


def further(measured: Sequence[Measured]) -> Further:
    """What these measurements say of contexts and KV caches on the table's text; nothing where there are none besides the
    table's."""
    first = [one.conditions for one in measured if not one.is_further]
    tables = {Table(where.corpus, where.corpus_sha256, where.n_ctx) for where in first}
    found = [one for one in measured if _is_on(one.conditions, tables)]
    if not any(one.is_further for one in found):
        return Further()
    return Further(tuple(_judged(found)), tuple(_lines(found)))


def _is_on(where: Conditions, tables: Collection[Table]) -> bool:
    """Whether it is on one of these texts, or on none: a speed."""
    return where.corpus_sha256 is None or any(table.has_text_of(where) for table in tables)


def _judged(measured: Sequence[Measured]) -> list[Judged]:
    alone = [
        one for one in measured
        if one.kv_type != F16 and one.value("kld_mean") is not None and one.conditions.base_sha256 == one.row.sha256
    ]  # fmt: skip
    kinds = [kind for kind in kv_cache.TYPES if any(one.kv_type == kind for one in alone)]
    return [_judge(kind, [one for one in alone if one.kv_type == kind]) for kind in kinds]


def _judge(kv_type: str, alone: Sequence[Measured]) -> Judged:
    worst = max(alone, key=lambda one: _number(one, "kld_mean")[0])
    contexts = sorted({one.conditions.n_ctx or 0 for one in alone})
    grade = max((_grade(one) for one in alone), key=GRADES.index)
    return Judged(kv_type, _number(worst, "kld_mean"), worst.conditions.n_ctx or 0, tuple(contexts), grade)


def _grade(one: Measured) -> Grade:
    """As files are graded, but the error counts against a cache."""
    kld, error = _number(one, "kld_mean")
    top, _ = one.value("same_top_p") or (1.0, None)
    most = kld + SIGNIFICANT * (error or 0.0)
    return next(grade for grade in GRADES if most <= grade.kld and top >= grade.same_top)


def _number(one: Measured, metric: str) -> Number:
    return one.value(metric) or (math.nan, None)


def _lines(measured: Sequence[Measured]) -> list[Line]:
    files = list(dict.fromkeys(one.row.file for one in measured))
    quality = [one for one in measured if one.value("ppl") is not None]
    deep = [one for one in measured if one.conditions.depth]
    timed: dict[_Run, Measured] = {(one.row.file, one.conditions.depth, one.kv_type): one for one in deep}
    found = [_line(one, quality, timed) for one in quality]
    told = {(line.file, line.n_ctx, line.kv_type) for line in found}
    found += [_of_speed(one) for key, one in timed.items() if key not in told]
    return sorted(found, key=lambda x: (files.index(x.file), x.text, x.n_ctx, _ORDER.get(x.kv_type, 0)))


def _line(one: Measured, quality: Sequence[Measured], timed: Mapping[_Run, Measured]) -> Line:
    where, kld = one.conditions, one.value("kld_mean")
    plain = next((q for q in quality if q.kv_type == F16 and _is_same(q, one)), None)
    added = _added(one, plain) if plain is not None and one.kv_type != F16 else None
    speed = timed.get((one.row.file, where.n_ctx, one.kv_type))
    pp, tg = (speed.value(name) if speed is not None else None for name in ("pp_tps", "tg_tps"))
    top = one.value("same_top_p")
    return Line(
        one.row.file, where.corpus or "", where.n_ctx or 0, one.kv_type, one.value("ppl"), kld, top, added, pp, tg
    )


def _added(one: Measured, plain: Measured) -> Number | None:
    """What a cache adds to a file's KL divergence; the base has none with an F16 one."""
    own, before = one.value("kld_mean"), plain.value("kld_mean")
    if own is None or before is None:
        return own
    scores, others = one.scores, plain.scores
    paired_by_token = None if scores is None or others is None else paired.kld_difference(scores, others)
    added = paired_by_token or paired.unpaired(own, before)
    return added.value, added.error


def _of_speed(one: Measured) -> Line:
    pp, tg = one.value("pp_tps"), one.value("tg_tps")
    return Line(one.row.file, "", one.conditions.depth or 0, one.kv_type, None, None, None, None, pp, tg)


def _is_same(one: Measured, other: Measured) -> bool:
    """Whether two are of one file, text and context."""
    a, b = one.conditions, other.conditions
    return (one.row.file, a.corpus_sha256, a.n_ctx) == (other.row.file, b.corpus_sha256, b.n_ctx)
