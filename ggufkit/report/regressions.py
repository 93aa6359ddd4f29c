"""A sweep against an earlier one: which files lose more than before, or less, beyond the error. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ggufkit.core.records import ResultRow
from ggufkit.report import losses, swept, verdict
from ggufkit.report.swept import Swept
from ggufkit.report.verdict import Case, Gap

_Key = tuple[str, str, str, str]


@dataclass(frozen=True)
class Change:
    """A file that loses more or less than before.

    Args:
        gap: how much less it loses now, in parts of before.
    """

    model: str
    before: ResultRow
    now: ResultRow
    gap: Gap

    @property
    def ratio(self) -> float:
        """What it loses now, in parts of before."""
        return 1 - self.gap.gain


@dataclass(frozen=True)
class Regressions:
    """What became of the files of an earlier sweep.

    Args:
        worse, better: the largest change first.
        n_alike: within the error.
        apart: files that cannot be compared, by the reason.
        n_gone, n_new: files that only the earlier sweep has, and only this one.
    """

    worse: tuple[Change, ...]
    better: tuple[Change, ...]
    n_alike: int
    apart: Mapping[str, int]
    n_gone: int
    n_new: int

    @property
    def sentence(self) -> str:
        """All of it in one."""
        compared = len(self.worse) + len(self.better) + self.n_alike
        if not compared:
            said = "No file can be compared with the earlier sweep"
        else:
            said = (
                f"Against the earlier sweep {len(self.worse)} of {_files(compared)} {_loses(len(self.worse))} more, "
                f"{len(self.better)} less, {self.n_alike} the same within the error"
            )
        apart = [f"{_files(n)} not comparable: {reason}" for reason, n in self.apart.items()]
        others = [(self.n_gone, "no longer there"), (self.n_new, "new")]
        return "; ".join([said, *apart, *(f"{_files(n)} {what}" for n, what in others if n)]) + "."


def against(cells: Sequence[Swept], earlier: Sequence[Swept]) -> Regressions:
    """A sweep's files against those of an earlier one by the same names: model, profile, variant and type."""
    now, before = _measured(cells), _measured(earlier)
    both = [key for key in now if key in before]
    apart = Counter(reason for key in both if (reason := _difference(now[key], before[key])))
    changes = [_change(now[key], before[key]) for key in both if not _difference(now[key], before[key])]
    real = sorted((c for c in changes if c.gap.real), key=lambda c: c.gap.gain)
    return Regressions(
        worse=tuple(c for c in real if c.gap.gain < 0),
        better=tuple(c for c in real[::-1] if c.gap.gain > 0),
        n_alike=len(changes) - len(real),
        apart=dict(apart),
        n_gone=len(before) - len(both),
        n_new=len(now) - len(both),
    )


def _measured(cells: Sequence[Swept]) -> dict[_Key, tuple[Swept, Case]]:
    """Each file whose loss is known."""
    found: dict[_Key, tuple[Swept, Case]] = {}
    for cell in cells:
        for row in cell.rows:
            loss = losses.of_divergence(row, cell.scores.get(row.file)) if row.is_gguf else None
            if loss is not None:
                found[cell.model, cell.profile, row.variant, row.type] = cell, Case(row, loss)
    return found


def _difference(now: tuple[Swept, Case], before: tuple[Swept, Case]) -> str:
    """What differs in how they were measured; "" where nothing does."""
    facts, others = ({**swept.conditions(case.row), "base": cell.base_sha256} for cell, case in (now, before))
    return next((_reason(what, facts[what], others[what]) for what in facts if facts[what] != others[what]), "")


def _reason(what: str, now: object, before: object) -> str:
    if now is None or before is None:
        return f"{what} unknown"
    return f"another {what}" + (f" ({now}, not {before})" if isinstance(now, int) else "")


def _change(now: tuple[Swept, Case], before: tuple[Swept, Case]) -> Change:
    (cell, one), (_, other) = now, before
    return Change(cell.title, other.row, one.row, verdict.difference(one, other))


def _files(n: int) -> str:
    return f"{n:,} file{'' if n == 1 else 's'}"


def _loses(n: int) -> str:
    return "loses" if n == 1 else "lose"
