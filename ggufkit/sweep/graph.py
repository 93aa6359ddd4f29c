"""A cell and what its model tells -> the jobs that make and measure its files. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ggufkit.sweep.facts import Facts, File
from ggufkit.sweep.records import Cell, Job
from ggufkit.sweep.station import CHECKED, CPU, GPU, HEAVY

_LIGHT = ("fetch", "finish")
_ON_GPU = ("scale", "matrix", "refine", "measure", "speak", "tasks", "bench")
_ON_CPU = ("base", "quantize")
_MEASURING = ("measure", "speak", "tasks", "bench")
_FIRST = ("fetch", "base")
"""Stages without which, of the model as it is, there is nothing to tabulate."""


def fetch(cell: Cell) -> Job:
    """The first job of a cell, whose facts tell the others."""
    return Job(cell.name, "fetch", resources=_resources("fetch", on_gpu=False))


def jobs(cell: Cell, facts: Facts, *, on_gpu: bool = False) -> list[Job]:
    """All jobs of a cell but the first, each behind those that it needs.

    Args:
        on_gpu: what a GPU is good for is done by workers that have one.
    """
    return list(_Graph(cell, facts, on_gpu).all())


def is_in_vain(job: str, missed: str) -> bool:
    """Whether a job can do nothing where one that it needs was not done, by their ids; tables are of what is there."""
    stage, variant = missed.split("|")[1:3]
    return job.split("|")[1] != "finish" or (stage in _FIRST and not variant)


def _resources(stage: str, *, on_gpu: bool) -> dict[str, float]:
    """What a job takes of its worker: light ones take next to nothing; files are not made where a GPU waits for work."""
    needed = {CHECKED: 1.0}
    if stage not in _LIGHT:
        needed[HEAVY] = 1.0
    if on_gpu and stage in _ON_GPU:
        needed[GPU] = 1.0
    if stage in _ON_CPU:
        needed[CPU] = 1.0
    return needed


@dataclass(frozen=True)
class _Graph:
    cell: Cell
    facts: Facts
    on_gpu: bool

    def all(self) -> Iterator[Job]:
        made = [*self._bases(), *self._files()]
        measured = list(self._measured())
        yield from made
        yield from measured
        yield self._job("finish", needs=[job.id for job in (fetch(self.cell), *made, *measured)])

    def _job(self, stage: str, variant: str = "", kind: str = "", needs: Sequence[str] = ()) -> Job:
        on_gpu = self.on_gpu and self.cell.request.run.backend != "cpu"
        return Job(self.cell.name, stage, variant, kind, tuple(needs), _resources(stage, on_gpu=on_gpu))

    def _id(self, stage: str, variant: str = "", kind: str = "") -> str:
        return Job(self.cell.name, stage, variant, kind).id

    def _bases(self) -> Iterator[Job]:
        """What files share: bases, scaled checkpoints and their bases, importance matrices."""
        scalings = list(dict.fromkeys(file.scaling for file in self.facts.files if file.scaling))
        yield self._job("base", needs=[self._id("fetch")])
        if scalings:
            yield self._job("scale", needs=[self._id("fetch"), self._id("base")])
        for scaling in scalings:
            yield self._job("base", scaling, needs=[self._id("fetch"), self._id("base"), self._id("scale")])
        for scaling in dict.fromkeys(file.scaling for file in self.facts.files if file.weighed):
            yield self._job("matrix", scaling, needs=self._of_base(scaling))

    def _of_base(self, scaling: str) -> list[str]:
        """What is needed for whatever is made from a base."""
        needed = [self._id("fetch"), self._id("base")]
        return [*needed, self._id("scale"), self._id("base", scaling)] if scaling else needed

    def _files(self) -> Iterator[Job]:
        for file in self.facts.files:
            needs = self._of_base(file.scaling)
            if file.weighed:
                needs.append(self._id("matrix", file.scaling))
            if file.plainer:
                needs.append(self._id("quantize", file.plainer, file.type))
            yield self._job(_stage_of(file), file.variant, file.type, needs)

    def _measured(self) -> Iterator[Job]:
        """The base is measured before all files, which are compared with it."""
        base, how = [self._id("fetch"), self._id("base")], self.cell.request.evaluation
        wanted = {
            "measure": how.quality or bool(how.metrics),
            "speak": how.smoke,
            "tasks": bool(how.tasks),
            "bench": how.bench,
        }
        for stage in (stage for stage in _MEASURING if wanted[stage]):
            at_once = stage == "measure" and self.facts.together
            files = [(file, self._id(_stage_of(file), file.variant, file.type)) for file in self.facts.files]
            yield self._job(stage, needs=[*base, *(made for _, made in files)] if at_once else base)
            for file, made in [] if at_once else files:
                before = [] if stage == "bench" else [self._id(stage)]
                yield self._job(stage, file.variant, file.type, [*base, *before, made])


def _stage_of(file: File) -> str:
    return "refine" if file.after else "quantize"
