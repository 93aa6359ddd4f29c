"""What a sweep tells of methods: where AWQ, a matrix, GPTQ or a recipe pays, and which file of each model to take.

Pure functions of result rows. Files are held against each other within a model, and counted together where text, context,
number of chunks and llama.cpp are the same.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from ggufkit.core.records import ResultRow
from ggufkit.report import compare, recommend, scatter, swept, trials, verdict
from ggufkit.report.compare import Facts, Sample
from ggufkit.report.data import Entry, Extent, Footprint
from ggufkit.report.recommend import Recommendation
from ggufkit.report.swept import Swept
from ggufkit.report.trials import PAYS, RECIPE, WORSE, Line, Trial

_SIZE = re.compile(r"[-_.]?\d+(\.\d+)?[bm](?![a-z0-9])", re.IGNORECASE)
_USUALLY = 0.5


@dataclass(frozen=True)
class Method:
    """What a method did in all its trials."""

    name: str
    trials: tuple[Trial, ...]

    @property
    def title(self) -> str:
        """As it is called in a sentence."""
        return {"imatrix": "an importance matrix", RECIPE: "a recipe"}.get(
            self.name, scatter.variant_title(self.name)
        )

    def count(self, verdict_: str) -> int:
        """How many ended so."""
        return sum(trial.verdict == verdict_ for trial in self.trials)

    @property
    def median(self) -> float:
        """Of the loss with it in parts of that without."""
        return statistics.median(trial.ratio for trial in self.trials)

    @property
    def by_model(self) -> tuple[Method, ...]:
        """Its trials with each model."""
        found: dict[str, list[Trial]] = {}
        for trial in self.trials:
            found.setdefault(trial.model, []).append(trial)
        return tuple(Method(self.name, tuple(own)) for own in found.values())

    @property
    def usually_pays(self) -> bool:
        """Whether it does in more than half of its trials."""
        return self.count(PAYS) > _USUALLY * len(self.trials)

    @property
    def sentence(self) -> str:
        """Where it pays, and plainly where it does not."""
        n, pays, worse, title = len(self.trials), self.count(PAYS), self.count(WORSE), self.title
        files = f"{n} file{'' if n == 1 else 's'}"
        usual = f"{self.median:.2f} of the loss without it{' in the median' if n > 1 else ''}"
        more = f"; {worse} {'loses' if worse == 1 else 'lose'} more with it" if worse else ""
        first = title[0].upper() + title[1:]
        if pays == 0:
            said = f"{first} did not help: of {files} none loses less by more than the error{more} ({usual})."
        elif pays == n:
            said = f"{first} pays in {'all ' if n > 1 else ''}{files}: {usual}."
        else:
            said = f"{first} pays in {pays} of {files}{self._by_type}{more} ({usual})."
        return said

    @property
    def _by_type(self) -> str:
        """For which types it pays for all models, and for which for none."""
        by_type: dict[str, list[bool]] = {}
        for trial in self.trials:
            by_type.setdefault(trial.type, []).append(trial.verdict == PAYS)
        always = [kind for kind, found in by_type.items() if all(found)]
        never = [kind for kind, found in by_type.items() if not any(found)]
        said = [
            f"{what} {verdict.listed(kinds)}" for what, kinds in (("for", always), ("not for", never)) if kinds
        ]
        return f", {', '.join(said)}" if said else ""


@dataclass(frozen=True)
class Best:
    """The file of a model to take."""

    cell: Swept
    taken: Recommendation


@dataclass(frozen=True)
class Section:
    """Cells, or parts of them, that were measured under equal conditions.

    Args:
        reasons: how the conditions differ from those of the first section.
    """

    conditions: Facts
    cells: tuple[Swept, ...]
    reasons: tuple[str, ...] = ()

    @cached_property
    def lines(self) -> tuple[Line, ...]:
        """Each quantized file that can be held against another one, model by model."""
        return tuple(line for cell in self.cells for line in trials.lines(cell))

    @cached_property
    def methods(self) -> tuple[Method, ...]:
        """Each method that was tried, those that help most first."""
        found: dict[str, list[Trial]] = {}
        for trial in (trial for cell in self.cells for trial in trials.of(cell)):
            found.setdefault(trial.method, []).append(trial)
        made = [Method(name, tuple(of)) for name, of in found.items()]
        return tuple(sorted(made, key=lambda m: (not m.usually_pays, m.median)))

    @cached_property
    def bests(self) -> tuple[Best, ...]:
        """The file to take of each model."""
        found = ((cell, _pick(cell)) for cell in self.cells)
        return tuple(Best(cell, pick) for cell, pick in found if pick is not None)

    @property
    def answer(self) -> str:
        """Which methods pay, in a few words."""
        if not self.methods:
            return "No method was compared with another."
        always = [method.title for method in self.methods if method.count(PAYS) == len(method.trials)]
        mostly = [method.title for method in self.methods if method.usually_pays and method.title not in always]
        said = [f"{verdict.listed(of)} {_pay(of, how)}" for of, how in ((always, ""), (mostly, "mostly ")) if of]
        if not said:
            return "No method pays here: files without are as good."
        return ", ".join(said)[:1].upper() + ", ".join(said)[1:]


def _pay(titles: Sequence[str], how: str) -> str:
    return how + ("pays" if len(titles) == 1 else "pay")


def sections(cells: Sequence[Swept]) -> list[Section]:
    """The cells by the conditions of their measurements, those of most models first."""
    by_title = {cell.title: cell for cell in cells}
    samples = [Sample(cell.title, _entry(cell, row)) for cell in cells for row in cell.rows if row.is_gguf]
    found = []
    for group in compare.groups(samples, _conditions):
        rows: dict[str, list[ResultRow]] = {}
        for sample in group.samples:
            rows.setdefault(sample.origin, []).append(sample.entry.row)
        own = [replace(by_title[title], rows=tuple(of)) for title, of in rows.items()]
        ordered = tuple(sorted(own, key=lambda cell: (family(cell.model), cell.profile, cell.rows[0].n_params)))
        found.append(Section(_conditions(group.samples[0].entry) or {}, ordered, group.reasons))
    return found


def unmeasured(cells: Iterable[Swept]) -> int:
    """How many files nothing was measured of that would judge them."""
    return sum(row.is_gguf and _conditions(_entry(cell, row)) is None for cell in cells for row in cell.rows)


def family(model: str) -> str:
    """What a model's name begins with, before it tells the size: "qwen2.5" of "qwen2.5-0.5b-instruct"."""
    return _SIZE.split(model, maxsplit=1)[0].lower() or model.lower()


def _conditions(entry: Entry) -> Facts | None:
    """What must be equal where files of several models are counted together; None where nothing was measured."""
    row = entry.row
    if row.kld_mean is None and row.ppl is None and row.cosine_mean is None:
        return None
    return swept.conditions(row)


def _entry(cell: Swept, row: ResultRow) -> Entry:
    """A row as the other reports have it, with what a sweep's table knows."""
    footprint = Footprint(row.size_bytes, 0, 0, 0)
    return Entry(row, None, None, Extent(), {}, {}, footprint, scores=cell.scores.get(row.file))


def _pick(cell: Swept) -> Recommendation | None:
    return recommend.advise([_entry(cell, row) for row in cell.rows]).pick
