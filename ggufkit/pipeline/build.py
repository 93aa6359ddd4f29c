"""`build`: which steps a request needs, in what order."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from ggufkit import report
from ggufkit.core import durations
from ggufkit.core.concurrency import makers_at_once, worker_pool
from ggufkit.core.expected import timed
from ggufkit.core.progress import Reporter, SilentReporter
from ggufkit.core.records import Checkpoint, GgufFile, QuantType, ResultRow
from ggufkit.core.variants import Variant
from ggufkit.llama import evaluates
from ggufkit.llama.gguf import read_gguf, read_header
from ggufkit.measure import bench, chat, divergence, measurements, metrics, perplexity, plugged, similarity
from ggufkit.measure.bench import BenchOptions
from ggufkit.measure.conditions import Setting, with_caches
from ggufkit.measure.evaluation import EvalOptions, Evaluation
from ggufkit.measure.logits.strategy import Transport
from ggufkit.measure.tasks import scores
from ggufkit.measure.tasks.answers import Asking
from ggufkit.modelfile.proven import ModelfileOptions
from ggufkit.pipeline import outlook, oversized, plan
from ggufkit.pipeline.artifacts import Artifacts, outputs
from ggufkit.pipeline.foreseen import is_measured
from ggufkit.pipeline.job import Job
from ggufkit.pipeline.lookup import prepare
from ggufkit.pipeline.pieces import TABLE, evaluated
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
        plan.require_disk_for_base(job)
        plan.require_matrices(job)
        plan.require_layers(job)
        plan.require_settings(job)
        base = _make_base(job, artifacts)
        mmproj = artifacts.mmproj()
        planned = plan.require_room(job, base.path)
        plan.warn_of_context(job, base.path)
        _warn_of_overlap(job, artifacts)
        modelfiles = Writer(_modelfile_options(job), job.session, mmproj)
        made, measured = _make_and_evaluate(job, artifacts, modelfiles)
        files = [read_gguf(result.path, result.sha256) for result in made]
        written = modelfiles.write_all(made)
        spoken = _speak_all(job, files)
        measured += _ask_all(job, files) + _measure_by_packages(job, files) + _time_all(job, files)
        results.confirm(measured)
        made = _divide_all(job, made)
        _note_texts(job, measured)
        rows = results.collect(job.out, job.reporter)
        for warning in oversized.warnings(planned, rows):
            job.reporter.warn(warning)
        _warn_of_unevenness(job, rows)
        _write_tables(job, rows)
    every = [*made, *written, *spoken, *measured, *([mmproj] if mmproj is not None else [])]
    part = None if mmproj is None else mmproj.path
    return BuildResult(job.out, tuple(rows), sum(not r.fresh for r in every), part)


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


def _speak_all(job: Job, files: Sequence[GgufFile]) -> list[Result]:
    """Let all files speak, the base first, and refuse garbage that only a quantized one speaks."""
    if not job.request.evaluation.smoke:
        return []
    if not evaluates.generates(read_header(files[0].path)):
        job.reporter.info("No file speaks: an encoder generates no text.")
        return []
    done = [chat.speak(file, job.session, job.request.run.ngl) for file in files]
    replies = {file.path.name: chat.read_reply(made.path) for file, made in zip(files, done, strict=True)}
    chat.require_sane(replies[files[0].path.name], replies)
    return done


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
            measured += _evaluate(job, base, files)
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
    for variant, kind in changed:
        artifacts.quantized(variant, kind)
        coming[variant, kind] = partial(artifacts.quantized, variant, kind)
    return [coming[target] for target in job.targets]


def _results(coming: Sequence[Coming]) -> list[Result]:
    """Wait for files; the error of the first that failed is raised as soon as it is reached."""
    return [wait() for wait in coming]


def _groups(job: Job, base: GgufFile, coming: Sequence[Coming]) -> list[Sequence[Coming]]:
    """The files that are evaluated together: all at once, or as many as one base pass serves."""
    size = max(1, len(coming))
    settings = _settings(job, base)
    together = evaluates.embeds(read_header(base.path))
    if settings and not together and job.request.evaluation.kld and job.tools.backend != "cpu" and coming:
        runs = 1 + len(settings[0].kv_types)
        size = (
            divergence.at_once(base, runs * len(coming), _evaluation(job, settings[0]), _transport(job)) // runs
            or 1
        )
    return [coming[i : i + size] for i in range(0, len(coming), size)] or [()]


def _evaluate(job: Job, base: GgufFile, files: Sequence[GgufFile]) -> list[Result]:
    """Measure the quality of files, and of their base, in each setting."""
    every: list[Result] = []
    for setting in _settings(job, base):
        started = time.monotonic()
        done = _measure(job, base, setting.runs(base, files), _evaluation(job, setting))
        _note_pace(job, base, done, time.monotonic() - started)
        every += done
    return every


def _settings(job: Job, base: GgufFile) -> Sequence[Setting]:
    """Texts, contexts and KV caches to measure with; of embeddings there is one."""
    if job.text is not None and evaluates.embeds(read_header(base.path)):
        how = job.request.evaluation
        return [Setting(job.text, how.contexts[0], how.chunks)]
    return job.settings


def _note_pace(job: Job, base: GgufFile, done: Sequence[Result], seconds: float) -> None:
    """Remember how long a pass takes; several at once share the machine."""
    made = [result for result in done if not result.fresh]
    if not made or (found := measurements.load(made[-1].path)[0].conditions).n_chunks is None:
        return
    n_tokens = (found.n_ctx or 0) * found.n_chunks
    durations.note(job.session.work("evaluate", base.n_params * n_tokens, evaluated(job)), seconds / len(made))


def _measure(job: Job, base: GgufFile, files: Sequence[GgufFile], evaluation: Evaluation) -> list[Result]:
    if evaluates.embeds(read_header(base.path)):
        return similarity.measure_all(base, files, evaluation)
    if not job.request.evaluation.kld:
        return perplexity.measure_all((base, *files), evaluation)
    return divergence.measure_all(base, files, evaluation, _transport(job))


def _evaluation(job: Job, setting: Setting) -> Evaluation:
    how = job.request.evaluation
    options = EvalOptions(setting.n_ctx, setting.n_chunks, job.request.run.ngl, how.precision)
    return Evaluation(setting.text, options, setting.session(job.session))


def _transport(job: Job) -> Transport:
    return Transport(job.request.evaluation.scratch_limit, job.request.evaluation.strategy)


def _ask_all(job: Job, files: Sequence[GgufFile]) -> list[Result]:
    """Ask all files questions, and compare their answers with those of the base, the first."""
    if job.tasks and not evaluates.generates(read_header(files[0].path)):
        job.reporter.info("No file is asked questions: an encoder answers none.")
        return []
    asked = [Asking(data, job.request.run.ngl, job.session) for data in job.tasks]
    return [result for one in asked for result in scores.measure_all(files[0], files[1:], one)]


def _measure_by_packages(job: Job, files: Sequence[GgufFile]) -> list[Result]:
    """Measure what metrics of installed packages say of all files, the base first."""
    asked = [metrics.find(name) for name in job.request.evaluation.metrics]
    return [plugged.measure(file, files[0], metric, job.text, job.session) for metric in asked for file in files]


def _time_all(job: Job, files: Sequence[GgufFile]) -> list[Result]:
    """Measure the speed of all files, one after the other and beside nothing else; where they are measured in other
    settings, too, also behind so many tokens."""
    how = job.request.evaluation
    if not how.bench:
        return []
    timing = BenchOptions(repetitions=how.bench_reps, ngl=job.request.run.ngl)
    deep = [
        replace(timing, depth=depth) for depth in how.depths if evaluates.generates(read_header(files[0].path))
    ]
    runs = [*files, *with_caches(files, how.kv_types)]
    tests = [*((file, timing) for file in files), *((file, at) for at in deep for file in runs)]
    return [bench.bench(file, at, job.session) for file, at in tests]


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
