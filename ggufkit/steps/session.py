"""What every step of one command shares."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ggufkit.core import durations
from ggufkit.core.durations import Work
from ggufkit.core.machine import physical_cores
from ggufkit.core.part_names import part_name, whole_of
from ggufkit.core.progress import Reporter, SilentReporter
from ggufkit.core.records import Toolchain
from ggufkit.steps import division, step
from ggufkit.steps.step import Made, Recipe, Result, Workspace


@dataclass(frozen=True)
class Session:
    """One command at work: its tools, its directory, and how it reports.

    `force` redoes finished steps; `explain` says why each step runs or is skipped; `finished` hears of each result.
    """

    tools: Toolchain
    workspace: Workspace
    reporter: Reporter = field(default_factory=SilentReporter)
    threads: int = field(default_factory=physical_cores)
    force: bool = False
    explain: bool = False
    finished: Callable[[Path], None] = lambda _output: None

    def work(self, kind: str, units: float, how: str = "") -> Work:
        """Some work on what this session computes with."""
        return Work(kind, units, how, f"{self.tools.backend}, {self.threads} threads")

    def ensure(
        self,
        recipe: Recipe,
        output: Path,
        make: Callable[[Path], Made],
        *,
        force: bool = False,
        why: str = "asked for by --force",
        work: Work | None = None,
    ) -> Result:
        """`step.ensure` as this command was asked to work: all is made anew under --force, reasons are told on demand.

        A GGUF that is there in parts counts; where it is not fresh, the whole file takes their place.

        Args:
            force: a step's own reason, `why`, to make even what is fresh.
            work: what it takes, whose time is remembered.

        Raises:
            InputError: there is something else of that name, which is not overwritten.
            ResourceError: the disk is full.
        """
        told, file = self.reporter if self.explain else None, division.there(output)
        in_parts, forced = part_name(file) is not None, self.force or force
        stale = step.staleness(recipe, file) if in_parts and not forced else None
        if in_parts and not (forced or stale):
            result = step.fresh(file, told)
        else:
            again = why if forced else str(stale)
            result = step.ensure(
                recipe, whole_of(output), make, force=forced or stale is not None, why=again, explain=told
            )
            if in_parts:
                division.drop_parts(output)
        if work is not None and not result.fresh:
            durations.note(work, result.manifest.duration_s)
        self.finished(output)
        return result
