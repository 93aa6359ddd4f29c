"""What decides a job, as a short key: where it is the same and the files are there, nothing is to be done.

The recipes of the steps are finer, and decide whenever a job is at work; a key saves sending it. What another profile asks
of the same model in the same words has the same key, too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ggufkit.core import variants
from ggufkit.core.paths import user_path
from ggufkit.measure import metrics
from ggufkit.request import GROUPS, BuildRequest
from ggufkit.sweep import inputs
from ggufkit.sweep.records import Cell, Job
from ggufkit.sweep.station import Versions

_GROUPS: Mapping[str, Sequence[str]] = {
    "base": ("source", "conversion"),
    "scale": ("overrides", "calibration", "scaling", "report", "methods"),
    "matrix": ("calibration",),
    "quantize": ("source", "overrides", "calibration", "recipes", "methods"),
    "refine": ("source", "overrides", "calibration", "recipes", "refinement", "methods"),
    "measure": ("evaluation",),
    "speak": (),
    "tasks": ("evaluation", "calibration"),
    "bench": ("evaluation",),
}
"""Groups of a request that decide what jobs of a stage make, besides what they need."""


@dataclass(frozen=True)
class Keys:
    """Keys of a cell's jobs.

    Args:
        common: what decides all of them.
    """

    cell: Cell
    common: str

    @classmethod
    def of(cls, cell: Cell, versions: Versions) -> Keys:
        """For a cell whose files that its request names are as they are now."""
        run, named = cell.request.run, dict.fromkeys(inputs.named(cell.request))
        files = [_looks(user_path(path)) for path in named]
        told = [cell.request.model, files, asdict(versions), _packages(cell.request), run.backend, run.ngl]
        return cls(cell, _hash(told))

    def fetch(self) -> str:
        """Of the first job, whose facts tell the others."""
        request, only = self.cell.request, sorted(self.cell.only or ())
        groups = [getattr(request, name) for name in GROUPS if name != "run"]
        return _hash([self.common, request.types, request.variants, only, *map(asdict, groups)])

    def job(self, job: Job, needs: Mapping[str, str]) -> str:
        """Of any other.

        Args:
            needs: the keys of the jobs that it needs, by their ids.
        """
        request, behind = self.cell.request, [needs[name] for name in job.needs if "|fetch|" not in name]
        told: list[Any] = [self.common, job.stage, job.variant, job.type, *behind]
        if job.stage == "finish":
            return _hash([*told, self.cell.name, self.fetch()])
        if job.stage == "scale":  # all that the model is scaled for, in one job
            told += [request.types, request.variants, sorted(self.cell.only or ())]
        if job.stage == "bench":  # speeds are those of so many threads
            told.append(self.cell.threads)
        return _hash([*told, *(asdict(getattr(request, name)) for name in _GROUPS[job.stage])])


def _hash(told: Any) -> str:
    return hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _packages(request: BuildRequest) -> list[tuple[str, str]]:
    """Installed packages that have a part in what is made or measured, with their versions."""
    methods = [method for variant in variants.resolve(request.variants) for method in variant.methods]
    found = {(method.package, method.version) for method in methods}
    found |= {(metric.package, metric.version) for metric in map(metrics.find, request.evaluation.metrics)}
    return sorted(found)


def _looks(path: Path) -> list[tuple[str, int, int]]:
    """The files of a path as they look from outside: names, bytes, times of modification."""
    home = path.resolve()
    found = sorted(f for f in home.rglob("*") if f.is_file()) if home.is_dir() else [home]
    return [(str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in found]
