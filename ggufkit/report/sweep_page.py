"""`sweep.html`: families side by side. One file that opens offline, and works without scripts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from ggufkit.core import units
from ggufkit.report import families, family_plot, html, palette, trials
from ggufkit.report.compare import Facts
from ggufkit.report.families import Method, Section
from ggufkit.report.markdown import MISSING
from ggufkit.report.regressions import Change, Regressions
from ggufkit.report.scatter import variant_title
from ggufkit.report.swept import Swept
from ggufkit.report.trials import Line
from ggufkit.report.verdict import Gap
from ggufkit.texts.corpus import WIKITEXT2_TEST_SHA256

_MOST_DRAWN, _MOST_MODELS, _MOST_ROWS, _MOST_CHANGES = 60, 1000, 6000, 100
_TAGS = {trials.PAYS: "pays", trials.WORSE: "worse", trials.EVEN: "no difference"}


@dataclass(frozen=True)
class Drawn:
    """A model's drawing, and the family that it begins, where it does."""

    title: str
    family: str
    svg: str
    wide: str


@dataclass(frozen=True)
class Ratio:
    """What a file loses in parts of another: "0.62", its error, of what, and what that says: "pays", "worse"."""

    text: str
    error: str
    verdict: str
    beside: str = ""


@dataclass(frozen=True)
class Row:
    """A type of a model: what plain loses, and each other variant in parts of that, "" where there is none."""

    type: str
    plain: str
    error: str
    ratios: tuple[Ratio | None, ...]


@dataclass(frozen=True)
class Shown:
    """A section as the page has it.

    Args:
        overview: of each model what each method did, in the order of the section's methods.
        grid: of each model, its rows.
        n_undrawn, n_hidden: models and rows that the page has no room for.
    """

    section: Section
    conditions: tuple[tuple[str, str], ...]
    drawn: tuple[Drawn, ...]
    variants: tuple[str, ...]
    overview: tuple[tuple[str, tuple[Ratio | None, ...]], ...]
    grid: tuple[tuple[str, tuple[Row, ...]], ...]
    n_undrawn: int
    n_hidden: int


def render(
    name: str, cells: Sequence[Swept], earlier: Regressions | None = None, remarks: Sequence[str] = ()
) -> str:
    """The page.

    Args:
        name: of the sweep.
        earlier: what became of the files of an earlier sweep.
        remarks: what to mind before the figures are read.
    """
    shown = [_shown(section) for section in families.sections(cells)]
    return html.environment().get_template("sweep.html.j2").render(
        name=name,
        n_models=len({cell.model for cell in cells}),
        n_files=sum(row.is_gguf for cell in cells for row in cell.rows),
        n_unmeasured=families.unmeasured(cells),
        profiles=[profile for profile in dict.fromkeys(cell.profile for cell in cells) if profile],
        shown=shown,
        earlier=earlier,
        worse=_changes(earlier.worse) if earlier is not None else [],
        better=_changes(earlier.better) if earlier is not None else [],
        remarks=remarks,
        light=palette.LIGHT,
        dark=palette.DARK,
        missing=MISSING,
        size=units.size,
        tags=_TAGS,
        title=variant_title,
    )  # fmt: skip


def _shown(section: Section) -> Shown:
    drawn = _drawings(section)
    grid, n_hidden = _grid(section)
    there = {line.row.variant for line in section.lines} - {"plain"}
    variants = [variant for variant in palette.numbers(there) if variant in there]
    rows = tuple((model, tuple(_rows(lines, variants))) for model, lines in grid.items())
    n_undrawn = len(section.cells) - len(section.cells[:_MOST_DRAWN])
    return Shown(
        section,
        _in_words(section.conditions),
        drawn,
        tuple(variants),
        _overview(section),
        rows,
        n_undrawn,
        n_hidden,
    )


def _overview(section: Section) -> tuple[tuple[str, tuple[Ratio | None, ...]], ...]:
    """What each method did with each model, in the median; nothing where there is one model."""
    by_model = [{of.trials[0].model: of for of in method.by_model} for method in section.methods]
    models = [cell.title for cell in section.cells if any(cell.title in found for found in by_model)]
    if len(models) < 2:
        return ()
    return tuple((m, tuple(_of_model(found.get(m)) for found in by_model)) for m in models[:_MOST_MODELS])


def _of_model(did: Method | None) -> Ratio | None:
    if did is None:
        return None
    n, pays, worse = len(did.trials), did.count(trials.PAYS), did.count(trials.WORSE)
    verdict = trials.PAYS if did.usually_pays else trials.WORSE if worse > n / 2 else trials.EVEN
    said = [f"pays in {pays} of {n}", *([f"worse in {worse}"] if worse else [])]
    return Ratio(f"{did.median:.2f}", "", verdict, ", ".join(said))


def _drawings(section: Section) -> tuple[Drawn, ...]:
    """Two beside each other, family by family; one that would stand alone in a row is for a whole one as well."""
    within = family_plot.limits(section.cells)
    if within is None:
        return ()
    cells = [
        (cell, svg) for cell in section.cells[:_MOST_DRAWN] if (svg := family_plot.draw(cell, within)) is not None
    ]
    members = Counter(families.family(cell.model) for cell, _ in cells)
    is_headed, drawn, place = max(members.values(), default=0) > 1, list[Drawn](), 0
    for i, (cell, svg) in enumerate(cells):
        own = families.family(cell.model)
        begins = is_headed and (i == 0 or families.family(cells[i - 1][0].model) != own)
        ends = i + 1 == len(cells) or (is_headed and families.family(cells[i + 1][0].model) != own)
        place = 0 if begins else place
        wide = family_plot.draw(cell, within, is_wide=True) if ends and place % 2 == 0 else None
        drawn.append(Drawn(cell.title, own if begins else "", svg, wide or ""))
        place += 1
    return tuple(drawn)


def _grid(section: Section) -> tuple[dict[str, list[Line]], int]:
    """The lines of each model, as far as there is room; and how many there is none for."""
    found: dict[str, list[Line]] = {}
    for line in section.lines[:_MOST_ROWS]:
        found.setdefault(line.model, []).append(line)
    return found, len(section.lines[_MOST_ROWS:])


def _rows(lines: Sequence[Line], variants: Sequence[str]) -> list[Row]:
    by_type: dict[str, dict[str, Line]] = {}
    for line in lines:
        by_type.setdefault(line.row.type, {})[line.row.variant] = line
    return [_row(kind, found, variants) for kind, found in by_type.items()]


def _row(kind: str, found: dict[str, Line], variants: Sequence[str]) -> Row:
    plain = found.get("plain")
    recipe = _ratio(plain) if plain is not None else None
    value = f"{plain.row.kld_mean:.5f}" if plain is not None else ""
    error = f"± {plain.row.kld_stderr:.5f}" if plain is not None and plain.row.kld_stderr is not None else ""
    if recipe is not None:
        error = f"{recipe.text} {recipe.beside}, {_TAGS[recipe.verdict]}"
    return Row(kind, value, error, tuple(_ratio(found[v]) if v in found else None for v in variants))


def _ratio(line: Line) -> Ratio | None:
    """A file against plain where it can be, else against what its trial was; beside it against the matrix."""
    verdict = line.trial.verdict if line.trial is not None else ""
    first = line.to_plain or (line.trial.gap if line.trial is not None else None)
    if first is None:
        return None
    beside = f"{1 - line.to_matrix.gain:.2f} of the matrix" if line.to_matrix is not None else ""
    if line.to_plain is None and line.trial is not None:
        beside = f"of {line.trial.without}"
    return Ratio(f"{1 - first.gain:.2f}", _error(first), verdict, beside)


def _error(gap: Gap) -> str:
    return f"± {gap.error:.2f}" if gap.error else ""


def _in_words(facts: Facts) -> tuple[tuple[str, str], ...]:
    """Conditions as label and value."""
    text = str(facts["text"])
    known = "WikiText-2 raw, test split" if text == WIKITEXT2_TEST_SHA256 else f"sha256 {text[:16]}…"
    commit = facts["llama.cpp"]
    return (
        ("Text", known), ("Context", f"{facts['context']} tokens"), ("Chunks", str(facts["number of chunks"])),
        ("llama.cpp", str(commit) if commit is not None else MISSING),
    )  # fmt: skip


def _changes(found: Sequence[Change]) -> list[tuple[Change, Ratio]]:
    shown = found[:_MOST_CHANGES]
    return [(change, Ratio(f"{change.ratio:.3f}", _error(change.gap), change.gap.judged)) for change in shown]
