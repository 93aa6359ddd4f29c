"""What a sweep would do and take, before anything of it is done: of each cell what a plan of its build tells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ggufkit.core import machine, variants
from ggufkit.core.durations import Estimate, total
from ggufkit.core.errors import GgufkitError, Interrupted
from ggufkit.core.part_names import stem_of
from ggufkit.core.progress import Reporter, SilentReporter, grouped
from ggufkit.core.variants import Scaling
from ggufkit.llama import toolchain
from ggufkit.pipeline import pieces, plan
from ggufkit.pipeline.job import Job as Build
from ggufkit.pipeline.pieces import Piece
from ggufkit.pipeline.resources import Plan
from ggufkit.sweep import graph
from ggufkit.sweep.facts import facts_of
from ggufkit.sweep.records import Cell, Job

_PIECES = {"measure": ("evaluate", "metric"), "speak": ("speak",), "tasks": ("tasks",), "bench": ("bench",)}
"""What pieces of a build are called that a job of a stage measures."""


@dataclass(frozen=True)
class Foreseen:
    """What is to come of a cell, or of all together.

    Args:
        cell: its name.
        n_jobs, n_there: jobs, and those of them whose results are there; whether these are still right is decided by their
            recipes when they are asked for.
        n_files: GGUFs besides the base.
        download_bytes: of weights.
        result_bytes: of these.
        disk_bytes: of all that is kept, and of what is needed meanwhile.
        ram_bytes: of the largest job.
        gpu_s, cpu_s: seconds of what is left, at this machine's pace, most likely not `factor` times as long or as short.
            warnings: of what may not be meant.
        message, hint, exit_code: why nothing is known of it; "" where it is.
    """

    cell: str
    n_jobs: int = 0
    n_there: int = 0
    n_files: int = 0
    download_bytes: int = 0
    result_bytes: int = 0
    disk_bytes: int = 0
    ram_bytes: int = 0
    gpu_s: float = 0.0
    cpu_s: float = 0.0
    factor: float = 1.0
    warnings: tuple[str, ...] = ()
    message: str = ""
    hint: str = ""
    exit_code: int = 0


@dataclass(frozen=True)
class Outlook:
    """What is to come of a sweep: of each cell, and of all; `backend` is what times are told for."""

    cells: tuple[Foreseen, ...]
    total: Foreseen
    disk_free: int
    backend: str


def foresee(cells: Sequence[Cell], out: Path, reporter: Reporter | None = None) -> Outlook:
    """Plan each cell as `ggufkit build --dry-run` does. No weights are fetched; nothing is written to the directory.

    A cell of which nothing can be known, as of a model that its hub does not have, says why; the others are planned.

    Args:
        out: the sweep's directory.

    Raises:
        ToolchainError: there is no llama.cpp, without which nothing can be planned.
    """
    teller = reporter or SilentReporter()
    backends = {b: toolchain.find(b, teller).backend for b in dict.fromkeys(c.request.run.backend for c in cells)}
    found: list[Foreseen] = []
    with teller.step("Planning", len(cells)) as progress:
        for number, cell in enumerate(cells, 1):
            found.append(_cell(cell))
            progress.update(number, len(cells), "builds")
    return Outlook(
        tuple(found), _total(cells, found), machine.free_disk(out), ", ".join(dict.fromkeys(backends.values()))
    )


def _cell(cell: Cell) -> Foreseen:
    """What is to come of a cell, or why nothing is known of it."""
    listener = SilentReporter()
    headers_only = replace(cell.request, source=replace(cell.request.source, fetch=False))
    try:
        with plan.planned(headers_only, listener, cell.only) as (build, whole):
            return replace(_planned(cell, build, whole), warnings=tuple(grouped(listener.warnings)))
    except Interrupted:
        raise
    except GgufkitError as error:
        return Foreseen(cell.name, message=error.message, hint=error.hint or "", exit_code=error.exit_code)


def _planned(cell: Cell, build: Build, whole: Plan) -> Foreseen:
    jobs = [graph.fetch(cell), *graph.jobs(cell, facts_of(build))]
    on_gpu = [s.seconds or 0.0 for s in whole.steps if build.tools.backend != "cpu" and "GPU" in s.uses]
    gpu_s = min(sum(on_gpu), whole.seconds)
    return Foreseen(
        cell.name,
        len(jobs),
        _n_there(jobs, build, to_fetch=whole.download_bytes > 0),
        len(whole.files),
        whole.download_bytes,
        sum(file.size_bytes for file in whole.files),
        whole.disk_needed,
        whole.ram_needed,
        gpu_s,
        whole.seconds - gpu_s,
        whole.seconds_factor,
    )


def _n_there(jobs: Sequence[Job], build: Build, *, to_fetch: bool) -> int:
    """How many jobs have their results already; the last one only where all others have."""
    left = pieces.pieces(build)
    n_there = sum(not to_fetch if job.stage == "fetch" else _is_there(job, build, left) for job in jobs[:-1])
    is_complete = n_there == len(jobs) - 1 and not any(piece.stage == "report" for piece in left)
    return n_there + is_complete


def _is_there(job: Job, build: Build, left: Sequence[Piece]) -> bool:
    missing = {piece.output for piece in left}
    scaling = Scaling.from_label(job.variant) if job.variant and job.stage in ("base", "matrix") else None
    if job.stage == "base":
        return (build.base_output if scaling is None else build.scaled_base_output(scaling)) not in missing
    if job.stage == "matrix":
        return build.matrix_output(scaling) not in missing
    if job.stage == "scale":
        return missing.isdisjoint(build.scaled_checkpoint(one) for one in build.scalings)
    file = build.output(variants.find(job.variant), job.type) if job.variant else build.base_output
    if job.stage in ("quantize", "refine"):
        return file not in missing
    of_stage = [piece.output.name for piece in left if piece.stage.partition(" ")[0] in _PIECES[job.stage]]
    is_all = job.stage == "measure" and facts_of(build).together
    return not any(is_all or name.startswith(f"{stem_of(file)}.") for name in of_stage)


def _total(cells: Sequence[Cell], found: Sequence[Foreseen]) -> Foreseen:
    """All together; what several profiles need of one model is fetched once."""
    downloads = {cell.request.model: each.download_bytes for cell, each in zip(cells, found, strict=True)}
    time = total([Estimate(each.gpu_s + each.cpu_s, each.factor) for each in found])
    return Foreseen(
        "",
        sum(each.n_jobs for each in found),
        sum(each.n_there for each in found),
        sum(each.n_files for each in found),
        sum(downloads.values()),
        sum(each.result_bytes for each in found),
        sum(each.disk_bytes for each in found),
        max((each.ram_bytes for each in found), default=0),
        sum(each.gpu_s for each in found),
        sum(each.cpu_s for each in found),
        time.factor,
        exit_code=next((each.exit_code for each in found if each.exit_code), 0),
    )
