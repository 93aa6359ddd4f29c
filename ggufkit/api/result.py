"""What the functions of the API return."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from ggufkit.core.errors import UsageError
from ggufkit.core.records import ResultRow

if TYPE_CHECKING:
    import pandas as pd

    from ggufkit.report.compare import Comparison
    from ggufkit.report.rivals import Rivals


@dataclass(frozen=True)
class Result:
    """What a call made or measured. A notebook shows its table, and quality against size where that was measured.

    Args:
        out: the directory of the results.
        paths: the files, or directories, that were made or measured, in the order that they were asked for.
        rows: one for each GGUF of these, with all that is known of it.
        warnings: what was warned of meanwhile.
        made: how many steps had to be done; 0 where all was there already.
        mmproj: what reads images or sound for these files, a GGUF of its own; None where they read text alone.
    """

    out: Path
    paths: tuple[Path, ...]
    rows: tuple[ResultRow, ...] = field(default=(), repr=False)
    warnings: tuple[str, ...] = ()
    made: int = 0
    mmproj: Path | None = None

    @property
    def path(self) -> Path:
        """The one file. Raises UsageError where there are several: `paths` has them."""
        if len(self.paths) != 1:
            message = f"There are {len(self.paths)} files: {', '.join(p.name for p in self.paths)}."
            raise UsageError(message, hint="Take them from `paths`.")
        return self.paths[0]

    @property
    def df(self) -> pd.DataFrame:
        """One row for each GGUF, with the columns of `results.csv`; what was not measured is NA."""
        from ggufkit.report.tables import frame

        return frame(self.rows)

    def _repr_html_(self) -> str:
        """For notebooks."""
        from ggufkit.report.notebook import render

        warned = "".join(f"<p>⚠ {escape(text)}</p>" for text in self.warnings)
        if not self.rows:
            return "".join(f"<p><code>{escape(str(path))}</code></p>" for path in self.paths) + warned
        return render(self.rows, self.out) + warned


@dataclass(frozen=True)
class Compared(Result):
    """Results side by side.

    Args:
        groups: of directories: what of them is comparable, and why the rest is not.
        rivals: of files: the types of their tensors, and how they and the losses differ from the first's.
    """

    groups: Comparison | None = field(default=None, repr=False)
    origins: Sequence[str] = field(default=(), repr=False)
    rivals: Rivals | None = field(default=None, repr=False)

    @property
    def df(self) -> pd.DataFrame:
        """The rows of all; of directories the first column says whose they are."""
        table = super().df
        if self.groups is not None:
            table.insert(0, "directory", list(self.origins))
        return table

    def _repr_html_(self) -> str:
        """For notebooks."""
        from ggufkit.report.notebook import table

        remarks = [*(self.groups.remarks if self.groups is not None else ()), *self.warnings]
        return table(self.df) + "".join(f"<p>⚠ {escape(text)}</p>" for text in remarks)
