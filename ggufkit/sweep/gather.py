"""What a sweep found, in one place: `sweep.csv`, every row of every results.csv, and `sweep.html`, families side by side."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ggufkit.core.errors import InputError
from ggufkit.core.manifest import write_atomically
from ggufkit.core.part_names import stem_of
from ggufkit.measure import divergence, token_scores
from ggufkit.measure.paired import Scores
from ggufkit.steps.step import Workspace
from ggufkit.sweep.places import CSV, HTML
from ggufkit.sweep.records import Cell, Outcome

if TYPE_CHECKING:
    from ggufkit.report.swept import Swept


@dataclass(frozen=True)
class Gathered:
    """What was written: nothing where no cell has results; and what is to be said of it."""

    files: tuple[Path, ...]
    warnings: tuple[str, ...]


def gather(
    cells: Sequence[Cell], out: Path, failures: Sequence[Outcome] = (), against: Path | None = None
) -> Gathered:
    """Write `sweep.csv` and `sweep.html` from the results directories of cells; those without results are left out.

    Args:
        failures: jobs that failed, which the page tells.
        against: the sweep.csv of an earlier sweep.

    Raises:
        InputError: `against` is no such table.
    """
    from ggufkit.report import regressions, sweep_page, swept

    earlier = _with_scores(swept.read(against), against.parent) if against is not None else None
    tables, warnings = _tables(cells, out)
    if not tables:
        return Gathered((), warnings)
    read = _with_scores([swept.Swept(c.model, c.profile, swept.rows_of(t)) for c, t in tables], out)
    changes = regressions.against(read, earlier) if earlier is not None else None
    remarks = _remarks(failures, len(cells) - len(tables))
    write_atomically(out / CSV, swept.to_csv([(cell.model, cell.profile, table) for cell, table in tables]))
    write_atomically(out / HTML, sweep_page.render(out.resolve().name, read, changes, remarks))
    return Gathered((out / CSV, out / HTML), warnings)


def require_table(against: Path | None) -> None:
    """Require that an earlier sweep, if there is one, can be read. Raises InputError."""
    if against is not None:
        from ggufkit.report import swept

        swept.read(against)


def _tables(cells: Sequence[Cell], out: Path) -> tuple[list[tuple[Cell, Any]], tuple[str, ...]]:
    """The tables of cells that have one, and what is said of those that cannot be read."""
    from ggufkit.report import tables

    found, warnings = list[tuple[Cell, Any]](), list[str]()
    for cell in cells:
        try:
            if (out / cell.name / "results.csv").is_file():
                found.append((cell, tables.load_results(out / cell.name)))
        except InputError as error:
            warnings.append(f"Left out: {error.message} {error.hint}")
    return found, tuple(warnings)


def _with_scores(cells: Iterable[Swept], out: Path) -> list[Swept]:
    """Cells with what each token gave, as far as it is kept in their directories, so that errors are those of pairs."""
    return [replace(one, scores=_scores(one, out)) for one in cells]


def _place(out: Path, cell: Swept) -> Path:
    return out / cell.profile / cell.model if cell.profile else out / cell.model


def _scores(cell: Swept, out: Path) -> dict[str, Scores]:
    """By the files' names; none where names of a table that was written elsewhere lead out of the directory."""
    names = (cell.model, cell.profile, *(row.file for row in cell.rows))
    if any(name and (Path(name).name != name or name == "..") for name in names):
        return {}
    kept, found = Workspace(_place(out, cell)).measurements, dict[str, Scores]()
    for row in cell.rows:
        file = kept / f"{stem_of(Path(row.file))}.{divergence.STEP}.scores"
        if row.is_gguf and (scores := token_scores.of_row(row, file)) is not None:
            found[row.file] = scores
    return found


def _remarks(failures: Sequence[Outcome], n_without: int) -> list[str]:
    said = []
    if failures:
        said.append(f"{len(failures)} job{'' if len(failures) == 1 else 's'} failed: some files are missing here.")
    if n_without:
        said.append(f"{n_without} {'model has' if n_without == 1 else 'models have'} no results yet.")
    return said
