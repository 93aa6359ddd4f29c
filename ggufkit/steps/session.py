"""What every step of one command shares."""

from __future__ import annotations

from dataclasses import dataclass, field

from ggufkit.core.machine import physical_cores
from ggufkit.core.progress import Reporter, SilentReporter
from ggufkit.core.records import Toolchain
from ggufkit.steps.step import Workspace


@dataclass(frozen=True)
class Session:
    """One command at work: its tools, its directory, and how it reports.

    `force` redoes finished steps; `explain` says why each step runs or is skipped.
    """

    tools: Toolchain
    workspace: Workspace
    reporter: Reporter = field(default_factory=SilentReporter)
    threads: int = field(default_factory=physical_cores)
    force: bool = False
    explain: bool = False

    @property
    def explainer(self) -> Reporter | None:
        """Where reasons go, if they were asked for."""
        return self.reporter if self.explain else None
