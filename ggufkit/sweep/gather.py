"""What a sweep found, in one place: `sweep.csv`, every row of every results.csv, and `sweep.html`, families side by side."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ggufkit.core.errors import InputError
from ggufkit.core.manifest import write_atomically
from ggufkit.core.part_names import stem_of
from ggufkit.core.progress import Reporter
from ggufkit.measure import divergence, token_scores
from ggufkit.measure.paired import Scores
from ggufkit.steps.step import Workspace
from ggufkit.sweep.places import CSV, HTML
from ggufkit.sweep.records import Cell, Outcome

if TYPE_CHECKING:
    from ggufkit.report.swept import Swept


def gather(
    cells: Sequence[Cell],
    out: Path,
    reporter: Reporter,
    failures: Sequence[Outcome] = (),
    against: Path | None = None,
) -> tuple[Path, ...]:
    """Write `sweep.csv` and `sweep.html` from the results directories of cells; those without results are left out.

    Args:
        failures: jobs that failed, which the page tells.
        against: the sweep.csv of an earlier sweep.

    Returns:
        What was written; nothing where no cell has results.

    Raises:
        InputError: `against` is no such table.
    """
    from ggufkit.report import regressions, sweep_page, swept, tables

    earlier = _with_scores(swept.read(against), against.parent) if against is not None else None
    found = [
        (cell, tables.load_results(out / cell.name)) for cell in cells if _has_results(out / cell.name, reporter)
    ]
    if not found:
        return ()
    write_atomically(out / CSV, swept.to_csv([(cell.model, cell.profile, table) for cell, table in found]))
    read = _with_scores([swept.Swept(c.model, c.profile, swept.rows_of(t)) for c, t in found], out)
    changes = regressions.against(read, earlier) if earlier is not None else None
    page = sweep_page.render(out.resolve().name, read, changes, _remarks(failures, len(cells) - len(found)))
    write_atomically(out / HTML, page)
    return out / CSV, out / HTML


def _has_results(root: Path, reporter: Reporter) -> bool:
    """Whether a cell has a table that can be read; of another one it is said why."""
    from ggufkit.report import tables

    if not (root / "results.csv").is_file():
        return False
    try:
        tables.load_results(root)
    except InputError as error:
        reporter.warn(f"Left out: {error.message}")
        return False
    return True


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
