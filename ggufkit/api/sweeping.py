"""Functions for many builds at once: sweep, and its plan."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ggufkit.api import options
from ggufkit.api.call import Options, listening
from ggufkit.api.options import Path_
from ggufkit.commands import sweep as sweeping
from ggufkit.commands.sweep import Asked
from ggufkit.core import values
from ggufkit.core.progress import Reporter
from ggufkit.sweep.clusters import SYSTEMS
from ggufkit.sweep.foreseen import Outlook
from ggufkit.sweep.places import CSV, Places
from ggufkit.sweep.records import Event, Outcome

if TYPE_CHECKING:
    import pandas as pd
    from typing_extensions import Unpack

_KINDS: Mapping[str, values.Kind] = {
    "profiles": values.SOME_NAMES, "workers": values.Whole(1, 512), "scheduler": values.TEXT, "store": values.TEXT,
    "system": values.Choice(tuple(SYSTEMS)), "force": values.SWITCH,
    "against": values.FILE,
}  # fmt: skip


@dataclass(frozen=True)
class Swept:
    """What became of a sweep.

    Args:
        out: its output directory: a directory of results for each model, under each profile.
        outcomes: how each job ended, by its id.
    """

    out: Path
    outcomes: Mapping[str, Outcome] = field(repr=False)

    @property
    def failed(self) -> tuple[Outcome, ...]:
        """Jobs that failed, with message and hint; those that were left out because of them are not among them."""
        return tuple(one for one in self.outcomes.values() if one.state == "failed")

    @property
    def df(self) -> pd.DataFrame:
        """One row for each GGUF of all models: the columns of `results.csv` behind `model` and `profile`.

        Raises:
            InputError: there are no results.
        """
        from ggufkit.report.swept import frame

        return frame(self.out / CSV)


def sweep(
    file: Path_,
    hear: Callable[[Event], None] | None = None,
    *,
    out: Path_ | None = None,
    quiet: bool = False,
    **more: Unpack[options.SweepOptions],
) -> Swept:
    """Build all that a sweep file asks for, as `ggufkit sweep` does; what is there already is kept.

        >>> swept = sweep("sweep.yaml", workers=2)  # doctest: +SKIP
        >>> swept.df.pivot_table("kld_mean", "model", ["variant", "type"])  # doctest: +SKIP

    Args:
        file: the sweep file.
        hear: is told every event, from the thread that calls; by default a table is shown in a terminal.
        out: the output directory, default as the file says.
        quiet: show nothing.
        more: which profiles, and where workers come from, see `SweepOptions`.

    Raises:
        UsageError: a value is none of its option's, or options contradict each other.
        GgufkitError: the file is wrong, another sweep is at work there, or no worker can be had. A job that fails is told
            by the result.
    """
    asked = _asked("sweep", file, out, more)
    places = Places(sweeping.read(asked)[0].out)
    with _watching(places, hear, quiet) as told:
        return Swept(places.out, sweeping.sweep(asked, told))


def plan_sweep(
    file: Path_,
    reporter: Reporter | None = None,
    *,
    out: Path_ | None = None,
    quiet: bool = False,
    **more: Unpack[options.SweepOptions],
) -> Outlook:
    """What `sweep` would do of the same arguments, and what it takes: no weights are fetched, nothing is begun.

        >>> plan_sweep("sweep.yaml").total.n_jobs  # doctest: +SKIP
        2310

    Raises:
        GgufkitError: as `sweep`; of a model that nothing can be known of the result tells why.
    """
    with listening(reporter, quiet) as listener:
        return sweeping.foresee(_asked("plan_sweep", file, out, more), listener)


def _asked(function: str, file: Path_, out: Path_ | None, more: options.SweepOptions) -> Asked:
    given = Options(function, options.SweepOptions, more).given
    told: dict[str, Any] = {name: values.read(name, _KINDS[name], value) for name, value in given.items()}
    where = None if out is None else values.read("out", values.PATH, out)
    return Asked(values.read("file", values.FILE, file), out=where, **told)


def _watching(
    places: Places, hear: Callable[[Event], None] | None, quiet: bool
) -> AbstractContextManager[Callable[[Event], None]]:
    """Who is told: whoever was given, or a table where somebody looks."""
    if hear is not None:
        return nullcontext(hear)
    from ggufkit.cli import sweep_table, terminal

    if quiet or not terminal.is_watched(terminal.console()):
        return nullcontext(lambda _event: None)
    return sweep_table.watching(places)
