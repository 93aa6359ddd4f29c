"""`build`: which steps a request needs, in what order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ggufkit import bench, chat, divergence, perplexity, planning, results
from ggufkit.artifacts import Artifacts
from ggufkit.bench import BenchOptions
from ggufkit.divergence import Comparison
from ggufkit.job import DEFAULT_TYPES, BuildRequest, Job, prepare
from ggufkit.llama.gguf import read_gguf
from ggufkit.modelfiles import ModelfileOptions, Writer
from ggufkit.overlap import warn_of_overlap
from ggufkit.perplexity import EvalOptions
from ggufkit.planning import plan
from ggufkit.progress import Reporter, SilentReporter
from ggufkit.records import Checkpoint, GgufFile, ResultRow
from ggufkit.session import Session
from ggufkit.steps import Result

__all__ = ["DEFAULT_TYPES", "BuildRequest", "BuildResult", "build", "plan", "prepare"]


@dataclass(frozen=True)
class BuildResult:
    """Where the results are, and one row per GGUF."""

    out: Path
    rows: tuple[ResultRow, ...]
    made: int


def build(request: BuildRequest, reporter: Reporter | None = None) -> BuildResult:
    """Make, measure and tabulate what is asked for; what is there already is kept.

    Raises:
        GgufkitError: of the kind that tells what went wrong; what was finished stays.
    """
    job = prepare(request, reporter or SilentReporter())
    session = job.session
    with session.workspace.locked():
        artifacts = Artifacts(job, session)
        planning.require_disk_for_base(job)
        base = artifacts.base()
        planning.require_room(job, base.path)
        _warn_of_overlap(job, artifacts)
        made = [base, *(artifacts.quantized(variant, kind) for variant, kind in job.targets)]
        files = [read_gguf(result.path, result.sha256) for result in made]
        written = Writer(_modelfile_options(job), session).write_all(made)
        spoken = _speak_all(job, files, session)
        measured = _measure_all(job, files, session)
        rows = results.collect(job.out)
        _write_tables(job, rows)
    return BuildResult(job.out, tuple(rows), sum(not r.fresh for r in [*made, *written, *spoken, *measured]))


def _warn_of_overlap(job: Job, artifacts: Artifacts) -> None:
    if job.calibration is None or job.text is None:
        return
    drawn = artifacts.calibration() if any(v.awq or v.refined for v in job.variants) else None
    n_tokens = 512 * job.request.calibration_samples if any(v.imatrix for v in job.variants) else 0
    warn_of_overlap(job.calibration, job.text, job.model, n_tokens, drawn, job.reporter)


def _modelfile_options(job: Job) -> ModelfileOptions:
    return ModelfileOptions(checkpoint=job.model.path if isinstance(job.model, Checkpoint) else None)


def _speak_all(job: Job, files: Sequence[GgufFile], session: Session) -> list[Result]:
    """Let all files speak, the base first, and refuse garbage that only a quantized one speaks."""
    if not job.request.smoke:
        return []
    done = [chat.speak(file, session, job.request.ngl) for file in files]
    replies = {file.path.name: chat.read_reply(made.path) for file, made in zip(files, done, strict=True)}
    chat.require_sane(replies[files[0].path.name], replies)
    return done


def _measure_all(job: Job, files: Sequence[GgufFile], session: Session) -> list[Result]:
    """Measure all files, the base first."""
    request, done = job.request, []
    if job.text is not None:
        options = EvalOptions(request.n_ctx, request.n_chunks, request.ngl, request.precision)
        if request.kld:
            how = Comparison(request.scratch_limit)
            done += divergence.measure_all(files[0], files[1:], job.text, options, how, session)
        else:
            done += [perplexity.measure(file, job.text, options, session) for file in files]
    if request.bench:
        timing = BenchOptions(repetitions=request.bench_reps, ngl=request.ngl)
        done += [bench.bench(file, timing, session) for file in files]
    return done


def _write_tables(job: Job, rows: Sequence[ResultRow]) -> None:
    """Write tables and reports unless they say what was measured already."""
    from ggufkit import report
    from ggufkit.report.choose import Wish

    wish = Wish(job.request.fits, job.request.fits_ctx)
    if job.request.force or not report.is_current(rows, job.out, wish):
        with job.reporter.step("Writing tables and report"):
            report.write(rows, job.out, wish)
