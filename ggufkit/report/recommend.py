"""Which file to take: the one answer that the terminal, the reports, the page's calculator and the model card give.

Pure functions. Differences within the error are ties. Of files of one type or size the plainest wins, unless others are
better; of these the plainest that ties with the best; of other sizes the smaller. Float types, and so the base, are for
where nothing else is good.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from ggufkit.core import units
from ggufkit.core.records import F16
from ggufkit.llama import quants
from ggufkit.report.choose import MemoryBudget, amount, context
from ggufkit.report.data import Entry
from ggufkit.report.losses import (
    GOOD,
    GRADES,
    NEARLY_LOSSLESS,
    NOTICEABLE,
    Grade,
    Loss,
    is_base,
    losses,
    plainness,
)

_SAME_SIZE = 1.001
"""Metadata alone makes such a difference."""
_WORTH = 1.4
"""To lose nothing instead of what is just good for most uses is worth so many times the bytes. Of llama.cpp's figures for
Llama-3-8B that chooses Q4_K_M among the K-quants, and IQ4_XS where there is one with a matrix."""


@dataclass(frozen=True)
class Recommendation:
    """The file to take, and why.

    Args:
        reason: one, in plain words.
        loss: what was measured, in words; "" where nothing was.
        memory_bytes: what it takes to run with a context of `n_ctx` tokens in a KV cache of the type `kv_type`.
    """

    entry: Entry
    reason: str
    loss: str
    memory_bytes: int
    n_ctx: int
    kv_type: str = F16

    @property
    def figures(self) -> str:
        """Its size, memory and loss."""
        needs = f"{amount(self.memory_bytes)} of memory at {context(self.n_ctx, self.kv_type)}"
        return ", ".join(filter(None, (units.size(self.entry.row.size_bytes), needs, self.loss)))

    @property
    def line(self) -> str:
        """All of it in a line, without the file's name: why, and its figures."""
        return f"{self.reason} ({self.figures})"


@dataclass(frozen=True)
class Rung:
    """A file of the ladder.

    Args:
        name: of its step, "balanced"; words: "good for most uses". Both are "" where nothing was measured.
        loss, memory_bytes: as of a recommendation.
        is_pick: whether it is the file to take.
    """

    entry: Entry
    name: str
    words: str
    loss: str
    memory_bytes: int
    is_pick: bool


@dataclass(frozen=True)
class Advice:
    """Which of several files to take, measured alike.

    Args:
        pick: None where nothing fits the memory.
        answer: «which one should I take?», in a sentence.
        ladder: from the smallest file that still speaks well to the base.
        front: names of the files that no other one beats by more than the error, in size or loss.
        preference: where memory is told, the first of them that fits is the one to take.
        words: of each file that was measured: what it is like beside the base, by file name.
    """

    pick: Recommendation | None
    answer: str
    ladder: tuple[Rung, ...]
    front: frozenset[str]
    preference: tuple[Entry, ...]
    words: Mapping[str, str]


def advise(
    entries: Sequence[Entry], budget: MemoryBudget | None = None, among: Collection[str] | None = None
) -> Advice:
    """The answer for files that may be compared with each other, at least one.

    Args:
        among: names of those to choose from, None for all GGUFs; what the others are, their base say, counts all the
            same.
    """
    wanted, lost = budget or MemoryBudget(), losses(entries)
    there = [e for e in entries if e.row.is_gguf and (among is None or e.row.file in among)]
    front = _front(there, lost)
    chosen = _Choice(wanted, lost, tuple(front or sorted(there, key=lambda e: (e.row.bpw, e.row.size_bytes))))
    pick = chosen.pick()
    return Advice(
        pick,
        _answer(pick, chosen),
        tuple(chosen.ladder(pick)),
        frozenset(e.row.file for e in front),
        chosen.preference,
        {file: words for file, loss in lost.items() if (words := _words(loss))},
    )


def nothing(advice: Advice) -> Advice:
    """No answer, where none of the files that may be compared is to be had; what they are like stays."""
    return replace(advice, pick=None, answer="", ladder=(), front=frozenset(), preference=())


def pareto(entries: Sequence[Entry]) -> list[Entry]:
    """The files that are worth their size, the smallest first: each is better than every smaller one by more than the
    error, or by a grade. Of those of one type or size there is one, as `losses.best_of_type` chooses."""
    return _front([e for e in entries if e.row.is_gguf], losses(entries))


def _front(entries: Sequence[Entry], lost: Mapping[str, Loss]) -> list[Entry]:
    front: list[Entry] = []
    for entry in sorted(_proven(entries, lost), key=lambda e: (e.row.size_bytes, lost[e.row.file].value)):
        own = lost[entry.row.file]
        if all(_is_worth_more(own, lost[e.row.file]) for e in front):
            while front and _is_as_large(front[-1], entry):
                front.pop()
            front.append(entry)
    return front


def loss_in_words(entry: Entry) -> str:
    """What was measured of a file: "KLD 0.0205, same top token 90.7%"; "" where nothing was."""
    row = entry.row
    if row.kld_mean is not None:
        top = "" if row.same_top_p is None else f", same top token {row.same_top_p:.1%}"
        return f"KLD {row.kld_mean:.4g}{top}"
    if row.cosine_mean is not None:
        return f"cosine similarity {row.cosine_mean:.5f}"
    return f"PPL {row.ppl:.4f}" if row.ppl is not None else ""


def _proven(entries: Sequence[Entry], lost: Mapping[str, Loss]) -> list[Entry]:
    """Measured files, of those of one type or size the plainest that ties with the best."""
    measured = [e for e in entries if e.row.file in lost]
    return [e for e in measured if _is_first(e, [other for other in measured if _is_twin(other, e)], lost)]


def _is_first(entry: Entry, twins: Sequence[Entry], lost: Mapping[str, Loss]) -> bool:
    """Whether it is the one to take of its twins, which are it and others: as `losses.best_of_type` has it."""
    least = min(map(_plainness, twins))
    plain, best = (
        min((lost[e.row.file] for e in group), key=lambda loss: loss.value)
        for group in ([e for e in twins if _plainness(e) == least], twins)
    )
    wanted = [
        e for e in twins
        if not best.is_less_than(lost[e.row.file]) and (_plainness(e) == least or lost[e.row.file].is_less_than(plain))
    ]  # fmt: skip
    return entry in wanted and not any(_plainness(e) < _plainness(entry) for e in wanted)


def _is_twin(other: Entry, entry: Entry) -> bool:
    return other.row.type == entry.row.type or _is_as_large(other, entry)


def _plainness(entry: Entry) -> tuple[bool, int, bool]:
    return not is_base(entry), plainness(entry.row.variant), entry.recipe is not None


def _is_as_large(a: Entry, b: Entry) -> bool:
    small, large = sorted((a.row.size_bytes, b.row.size_bytes))
    return large <= _SAME_SIZE * small


def _is_worth_more(own: Loss, smaller: Loss) -> bool:
    return own.is_less_than(smaller) or _rank(own) < _rank(smaller)


def _rank(loss: Loss) -> int:
    return GRADES.index(loss.grade)


def _words(loss: Loss) -> str:
    return loss.grade.words if loss.is_known else ""


def _is_float(entry: Entry) -> bool:
    return is_base(entry) or quants.is_float(entry.row.type)


@dataclass(frozen=True)
class _Choice:
    """Among `files`: those of the front, or all where nothing was measured, the smallest first."""

    budget: MemoryBudget
    lost: Mapping[str, Loss]
    files: tuple[Entry, ...]

    @property
    def quantized(self) -> list[Entry]:
        return [e for e in self.files if not _is_float(e)]

    @property
    def floats(self) -> list[Entry]:
        """The base first."""
        return sorted((e for e in self.files if _is_float(e)), key=lambda e: not is_base(e))

    @property
    def preference(self) -> tuple[Entry, ...]:
        """The closest to the base first, but no float type before what is nearly lossless, or was not measured."""
        closest = sorted(self.quantized, key=lambda e: -self._rank(e))[::-1]
        enough = [e for e in closest if self._rank(e) in (0, len(GRADES))]
        return (*enough, *self.floats, *(e for e in closest if e not in enough))

    def memory(self, entry: Entry) -> int:
        return entry.footprint.total(self.budget.n_ctx)

    def pick(self) -> Recommendation | None:
        if self.budget.memory_bytes is not None:
            return self._fitting(self.budget.memory_bytes)
        if not self.lost:
            reason = "the most bits per weight here; its quality was not measured"
            return self._recommend(self.preference[0], reason)
        if not self.quantized:
            return self._recommend(self.floats[0], "there is no quantized file here")
        words = self.lost[self.balanced.row.file].grade.words
        if self.floats and not self._is(self.balanced, NOTICEABLE):
            return self._recommend(self.floats[0], f"every quantized file here is {words}")
        return self._recommend(self.balanced, self._why_balanced(words))

    @property
    def balanced(self) -> Entry:
        """Of the quantized files that are good for most uses, or else of the best, the one of least size and loss."""
        good = [e for e in self.quantized if self._is(e, GOOD)]
        best = min(map(self._rank, self.quantized))
        return min(good or [e for e in self.quantized if self._rank(e) == best], key=self._cost)

    def _cost(self, entry: Entry) -> float:
        return entry.row.size_bytes * math.pow(_WORTH, self.lost[entry.row.file].share)

    def _why_balanced(self, words: str) -> str:
        if not self.lost[self.balanced.row.file].is_known:
            return "the best balance of size and perplexity"
        if self._is(self.balanced, GOOD):
            return f"the best balance of size and loss, {words}"
        return f"{words}, and no quantized file here is better"

    def _fitting(self, memory_bytes: int) -> Recommendation | None:
        fitting = [e for e in self.preference if self.memory(e) <= memory_bytes]
        return self._recommend(fitting[0], self._why_best(fitting[0])) if fitting else None

    def _why_best(self, entry: Entry) -> str:
        loss = self.lost.get(entry.row.file)
        if loss is None:
            return "the most bits per weight that fit; its quality was not measured"
        if is_base(entry):
            return f"the base itself fits, and no smaller file is {NEARLY_LOSSLESS.words}"
        words = _words(loss)
        return f"the best that fits, {words}" if words else "the best that fits"

    def _recommend(self, entry: Entry, reason: str) -> Recommendation:
        return Recommendation(
            entry, reason, loss_in_words(entry), self.memory(entry), self.budget.n_ctx, self.budget.kv_type
        )

    def ladder(self, pick: Recommendation | None) -> list[Rung]:
        """The smallest file that speaks well, a small one, a balanced one, a nearly lossless one, the base; and the pick."""
        names = self._names() if self.lost else {e.row.file: "" for e in self.files}
        if pick is not None:
            names.setdefault(
                pick.entry.row.file, "the most that fits" if self.budget.memory_bytes else "the best here"
            )
        return [self._rung(e, names[e.row.file], pick) for e in self.files if e.row.file in names]

    def _names(self) -> dict[str, str]:
        """Of files of the ladder by file name; where one file is several, the last counts."""
        smallest = {
            name: next((e for e in self.quantized if self._is(e, grade)), None)
            for name, grade in (("smallest that speaks well", NOTICEABLE), ("small", GOOD),
                                ("nearly lossless", NEARLY_LOSSLESS))
        }  # fmt: skip
        balanced = self.balanced if smallest["small"] is not None else None
        base = self.floats[0] if self.floats else None
        name = "the base" if base is not None and is_base(base) else "nearest to the base"
        steps = {**smallest, "balanced": balanced, name: base}
        return {entry.row.file: name for name, entry in steps.items() if entry is not None}

    def _rung(self, entry: Entry, name: str, pick: Recommendation | None) -> Rung:
        loss = self.lost.get(entry.row.file)
        words = _words(loss) if loss is not None else ""
        if is_base(entry) and self.lost:
            words = "what the others are compared with"
        is_pick = pick is not None and entry is pick.entry
        return Rung(entry, name, words, loss_in_words(entry), self.memory(entry), is_pick)

    def _rank(self, entry: Entry) -> int:
        loss = self.lost.get(entry.row.file)
        return len(GRADES) if loss is None else _rank(loss)

    def _is(self, entry: Entry, at_least: Grade) -> bool:
        return self._rank(entry) <= GRADES.index(at_least)


def _answer(pick: Recommendation | None, chosen: _Choice) -> str:
    budget = chosen.budget
    if pick is None:
        least = min(chosen.memory(e) for e in chosen.files)
        return (
            f"Nothing runs in {amount(budget.memory_bytes or 0)} with a context of {budget.context}: the smallest "
            f"file needs {amount(least)}. Shorten the context, or make a smaller type."
        )
    memory = "" if budget.memory_bytes is None else f"With {amount(budget.memory_bytes)} of memory, "
    return f"{memory}{'take' if memory else 'Take'} {pick.entry.row.file}: {pick.line}."
