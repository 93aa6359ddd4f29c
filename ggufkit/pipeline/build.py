"""`build`: which steps a request needs, in what order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ggufkit import report
from ggufkit.core.concurrency import makers_at_once, worker_pool
from ggufkit.core.expected import timed
from ggufkit.core.progress import Reporter, SilentReporter
from ggufkit.core.records import Checkpoint, GgufFile, QuantType, ResultRow
from ggufkit.core.variants import Variant
from ggufkit.llama.gguf import read_gguf
from ggufkit.modelfile.proven import ModelfileOptions
from ggufkit.pipeline import measuring, outlook, oversized, plan
from ggufkit.pipeline.artifacts import Artifacts, outputs
from ggufkit.pipeline.foreseen import is_measured
from ggufkit.pipeline.job import Job
from ggufkit.pipeline.lookup import prepare
from ggufkit.pipeline.pieces import TABLE
from ggufkit.pipeline.resources import PlannedFile
from ggufkit.report import results
from ggufkit.report.choose import MemoryBudget
from ggufkit.request import BuildRequest
from ggufkit.steps import division
from ggufkit.steps.modelfile import Writer
from ggufkit.steps.step import Result
from ggufkit.texts.overlap import warn_of_overlap

Target = tuple[Variant, QuantType]
Coming = Callable[[], Result]
"""Waits for a file that is being made, and gives it."""


@dataclass(frozen=True)
class BuildResult:
    """Where the results are, and one row per GGUF; `mmproj` reads images or sound for them."""

    out: Path
    rows: tuple[ResultRow, ...]
    made: int
    mmproj: Path | None = None


def build(request: BuildRequest, reporter: Reporter | None = None) -> BuildResult:
    """Make, measure and tabulate what is asked for; what is there already is kept.

    Raises:
        GgufkitError: of the kind that tells what went wrong; what was finished stays.
    """
    job = prepare(request, reporter or SilentReporter())
    with job.session.workspace.locked(), outlook.shown(plan.with_fitting(job)) as job:
        artifacts = Artifacts(job)
        require_possible(job)
        _make_base(job, artifacts)
        mmproj = artifacts.mmproj()
        planned = examine(job, artifacts)
        modelfiles = Writer(_modelfile_options(job), job.session, mmproj)
        made, measured = _make_and_evaluate(job, artifacts, modelfiles)
        files = [read_gguf(result.path, result.sha256) for result in made]
        written = modelfiles.write_all(made)
        spoken = measuring.speak(job, files)
        measured += measuring.ask(job, files) + measuring.by_packages(job, files) + measuring.time_all(job, files)
        made = _divide_all(job, made)
        rows = _tabulate(job, measured, planned)
    every = [*made, *written, *spoken, *measured, *([mmproj] if mmproj is not None else [])]
    part = None if mmproj is None else mmproj.path
    return BuildResult(job.out, tuple(rows), sum(not r.fresh for r in every), part)


def require_possible(job: Job) -> None:
    """Before hours are spent: refuse what the model, looked at as a whole, cannot be. Raises GgufkitError."""
    plan.require_disk_for_base(job)
    plan.require_matrices(job)
    plan.require_layers(job)
    plan.require_settings(job)


def examine(job: Job, artifacts: Artifacts) -> Sequence[PlannedFile]:
    """With the base there: the files that are still to be made, of which there is room; warn of what may not be meant.

    Raises:
        ResourceError: too little disk or memory.
    """
    base = artifacts.base().path
    planned = plan.require_room(job, base)
    plan.warn_of_context(job, base)
    _warn_of_overlap(job, artifacts)
    return planned


def conclude(
    job: Job, made: Sequence[Result], measured: Sequence[Result], mmproj: Result | None
) -> list[ResultRow]:
    """What is left to do when all files are there, the base first, and measured: Modelfiles, parts, tables, reports."""
    Writer(_modelfile_options(job), job.session, mmproj).write_all(made)
    _divide_all(job, made)
    return _tabulate(job, measured)


def _tabulate(job: Job, measured: Sequence[Result], planned: Sequence[PlannedFile] = ()) -> list[ResultRow]:
    """Write tables and reports of all that is there, and say what is odd about it.

    Args:
        measured: what their tables show where something was measured twice.
        planned: the files that were made now, as they were foreseen.
    """
    results.confirm(measured)
    _note_texts(job, measured)
    rows = results.collect(job.out, job.reporter)
    for warning in oversized.warnings(planned, rows):
        job.reporter.warn(warning)
    _warn_of_unevenness(job, rows)
    _write_tables(job, rows)
    return rows


def _make_base(job: Job, artifacts: Artifacts) -> Result:
    """The base. To convert it keeps one processor busy at first: what reports are made with is imported on another."""
    with worker_pool(1) as beside:
        if not job.base_output.exists():
            beside.submit(report.load)
        return artifacts.base()


def _warn_of_overlap(job: Job, artifacts: Artifacts) -> None:
    if job.calibration is None or not job.texts:
        return
    drawn = artifacts.calibration() if any(v.awq or v.refined for v in job.variants) else None
    n_tokens = 512 * job.request.calibration.samples if any(v.imatrix for v in job.variants) else 0
    reads_all = any(method.calibrated and method.package for v in job.variants for method in v.methods)
    if reads_all or any(is_measured(t) and not job.output(v, t.name).exists() for v, t in job.targets):
        n_tokens = job.calibration.n_bytes  # parts of all of the text; no token is shorter than a byte
    for text in job.texts:
        warn_of_overlap(job.calibration, text, job.model, n_tokens, drawn, job.reporter)


def _modelfile_options(job: Job) -> ModelfileOptions:
    return ModelfileOptions(checkpoint=job.model.path if isinstance(job.model, Checkpoint) else None)


def _make_and_evaluate(job: Job, artifacts: Artifacts, modelfiles: Writer) -> tuple[list[Result], list[Result]]:
    """Make all files and measure their quality: on a GPU those that are there, while the CPU makes the next.

    The chat template is proven beside it: files are read and written for much of the time that they take to be made.

    Returns:
        The files, the base first, and their measurements.
    """
    base = artifacts.base_file()
    with worker_pool(1) as beside, worker_pool(makers_at_once(job.session.threads)) as pool:
        if any(not output.exists() for _, _, output in outputs(job)):
            beside.submit(modelfiles.prove, artifacts.base())
        coming = _begin(job, artifacts, pool)
        if job.tools.backend == "cpu":
            _results(coming)  # the same processors cannot do both well
        measured: list[Result] = []
        for group in _groups(job, base, coming):
            files = [read_gguf(made.path, made.sha256) for made in _results(group)]
            measured += measuring.evaluate(job, base, files)
        return [artifacts.base(), *_results(coming)], measured


def _begin(job: Job, artifacts: Artifacts, pool: Executor) -> list[Coming]:
    """Have every file made; what several of them need is made here, and those that are changed afterwards come last."""
    plainer = [(v, t) for v, t in job.targets if v.after is None]
    coming: dict[Target, Coming] = {}
    for variant, kind in plainer:
        artifacts.prepare(variant, kind)
        coming[variant, kind] = pool.submit(artifacts.quantized, variant, kind).result
    changed = [(v, t) for v, t in job.targets if v.after is not None]
    if changed:
        _results(list(coming.values()))
    artifacts.announce(changed)
    for variant, kind in changed:
        artifacts.quantized(variant, kind)
        coming[variant, kind] = partial(artifacts.quantized, variant, kind)
    return [coming[target] for target in job.targets]


def _results(coming: Sequence[Coming]) -> list[Result]:
    """Wait for files; the error of the first that failed is raised as soon as it is reached."""
    return [wait() for wait in coming]


def _groups(job: Job, base: GgufFile, coming: Sequence[Coming]) -> list[Sequence[Coming]]:
    """The files that are evaluated together: all at once, or as many as one base pass serves."""
    size = measuring.at_once(job, base, len(coming))
    return [coming[i : i + size] for i in range(0, len(coming), size)] or [()]


def _divide_all(job: Job, made: Sequence[Result]) -> list[Result]:
    """Have the files in parts, if that is asked for: one after the other, as disks are full with models."""
    limit = job.request.parts.split
    return [division.divided(one, limit, job.reporter) for one in made] if limit is not None else list(made)


def _note_texts(job: Job, measured: Sequence[Result]) -> None:
    """Let an edited text be told of in place of what it was."""
    if job.further_texts:
        from ggufkit.report import conditions

        conditions.note_texts(measured, job.session.workspace)


def _warn_of_unevenness(job: Job, rows: Sequence[ResultRow]) -> None:
    """Say which files are good on one text and bad on another."""
    if not job.further_texts:
        return
    from ggufkit.report import conditions, unevenness

    for sentence in unevenness.several(conditions.collect(rows, job.out)).sentences:
        job.reporter.warn(sentence)


def _write_tables(job: Job, rows: Sequence[ResultRow]) -> None:
    """Write tables and reports unless they say what was measured already."""
    budget = MemoryBudget.of(job.request.report)
    if job.request.run.force or not report.is_current(rows, job.out, budget):
        with timed(job.reporter, "Writing tables and report", job.session.work("report", len(rows))):
            report.write(rows, job.out, budget)
        job.session.finished(job.out / TABLE)
