"""Files with a method held against those without it, within a model: what a matrix, AWQ, GPTQ or a recipe did. Pure."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

from ggufkit.core import variants
from ggufkit.core.records import ResultRow
from ggufkit.llama import quants
from ggufkit.report import losses, verdict
from ggufkit.report.losses import Loss
from ggufkit.report.swept import Swept, is_recipe
from ggufkit.report.verdict import Case, Gap

PAYS, WORSE, EVEN = "pays", "worse", "no difference"
RECIPE = "recipe"
_MATRIX = "imatrix"
_PRESET_OF = re.compile(r"like-([A-Z0-9_]+)")


@dataclass(frozen=True)
class Trial:
    """A file with a method, held against the one without it.

    Args:
        method: "awq", "imatrix", "gptq", a package's, or "recipe".
        with_, without: what the files are, as variant and type.
        gap: how much less the one with it loses.
    """

    model: str
    method: str
    type: str
    with_: str
    without: str
    gap: Gap

    @property
    def ratio(self) -> float:
        """What it loses, in parts of what the other does."""
        return 1 - self.gap.gain

    @property
    def verdict(self) -> str:
        """Whether that is less, more, or within the error."""
        return EVEN if not self.gap.real else PAYS if self.gap.gain > 0 else WORSE


@dataclass(frozen=True)
class Line:
    """A file in the table of methods.

    Args:
        to_plain, to_matrix: against the plain file of its type, and the one with an importance matrix alone.
        trial: what its own method did; None where no file without it was measured.
    """

    model: str
    row: ResultRow
    to_plain: Gap | None
    to_matrix: Gap | None
    trial: Trial | None


def of(cell: Swept) -> Iterator[Trial]:
    """Each of a cell's files against those that lack one of its methods, and each recipe against presets."""
    cases = _cases(cell)
    for (name, kind), case in cases.items():
        for method, without in _without(name):
            other = cases.get((without, kind)) or cases.get((_as_made(without, kind), kind))
            if other is not None:
                yield _trial(cell, method, case, other)
        if is_recipe(case.row) and (trial := _of_recipe(cell, case, cases)) is not None:
            yield trial


def _cases(cell: Swept) -> dict[tuple[str, str], Case]:
    """Its quantized files by variant and type, the smaller types last."""
    measured = [(row, losses.of_divergence(row, cell.scores.get(row.file))) for row in cell.rows if row.is_gguf]
    found = [Case(row, loss) for row, loss in measured if loss is not None and not quants.is_float(row.type)]
    return {
        (case.row.variant, case.row.type): case for case in sorted(found, key=lambda case: -case.row.size_bytes)
    }


def _trial(cell: Swept, method: str, case: Case, other: Case) -> Trial:
    gap = verdict.difference(case, other)
    return Trial(cell.title, method, case.row.type, label(case.row), label(other.row), gap)


def label(row: ResultRow) -> str:
    """Variant and type."""
    return f"{row.variant} {row.type}"


def _as_made(name: str, kind: str) -> str:
    """The variant whose file is made of a type: a matrix changes nothing of some, so that the plain one stands for both."""
    variant = variants.known(name)
    is_plain = variant is not None and variant.only_weighs and kind in quants.WITHOUT_MATRIX
    return "plain" if is_plain else name


@cache
def _without(name: str) -> tuple[tuple[str, str], ...]:
    """Each method of a variant, and the variant that has all the others; of one that is not known there are none."""
    variant = variants.known(name)
    if variant is None:
        return ()
    table = [found for name in variants.names() if (found := variants.known(name)) is not None]
    by_content = {(v.before, v.imatrix, v.after): v.name for v in table}
    before, after = variant.before, variant.after
    less = {
        before.name if before is not None else "": (None, variant.imatrix, after),
        after.name if after is not None else "": (before, variant.imatrix, None),
    } | ({_MATRIX: (before, False, None)} if variant.imatrix and after is None else {})
    return tuple((method, by_content[of]) for method, of in less.items() if method and of in by_content)


def _of_recipe(cell: Swept, case: Case, cases: Mapping[tuple[str, str], Case]) -> Trial | None:
    """A recipe against the preset of its bytes, or what presets of its variant would lose at its bits per weight."""
    like = _PRESET_OF.fullmatch(case.row.type)
    if like is not None and (preset := cases.get((case.variant, like[1]))) is not None:
        return _trial(cell, RECIPE, case, preset)
    presets = [c for (v, _), c in cases.items() if v == case.variant and not is_recipe(c.row) and c.row.kld_mean]
    between = _between(presets, case.row.bpw)
    return None if between is None else _trial(cell, RECIPE, case, between)


def _between(presets: Sequence[Case], bpw: float) -> Case | None:
    """What a preset of so many bits per weight would lose: on the line, of the logarithm, between its neighbours."""
    below = max((c for c in presets if c.row.bpw <= bpw), key=lambda c: c.row.bpw, default=None)
    above = min((c for c in presets if c.row.bpw > bpw), key=lambda c: c.row.bpw, default=None)
    if below is None or above is None:
        return None
    share = (bpw - below.row.bpw) / (above.row.bpw - below.row.bpw)
    kld = math.exp((1 - share) * math.log(below.loss.value) + share * math.log(above.loss.value))
    errors = [(1 - share) * below.loss.error / below.loss.value, share * above.loss.error / above.loss.value]
    loss = Loss(kld, kld * math.hypot(*errors), below.loss.grade)
    return Case(replace(below.row, type=f"between {below.row.type} and {above.row.type}", kld_mean=kld), loss)


def lines(cell: Swept) -> Iterator[Line]:
    """The quantized files of each type of which there are several, and recipes; large ones first."""
    cases, tried = _cases(cell), dict[str, Trial]()
    for trial in of(cell):
        tried.setdefault(trial.with_, trial)
    several = Counter(kind for _, kind in cases)
    for (name, kind), case in cases.items():
        plain, matrix = (_against(case, cases.get((other, kind))) for other in ("plain", _MATRIX))
        trial_of = tried.get(label(case.row))
        if several[kind] > 1 or trial_of is not None:
            yield Line(cell.title, case.row, plain, matrix if name != _MATRIX else None, trial_of)


def _against(case: Case, other: Case | None) -> Gap | None:
    return None if other is None or other is case else verdict.difference(case, other)
