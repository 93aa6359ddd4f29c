"""What a build measures of files, each measurement once: quality, what they say, answers, speed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from ggufkit.core import durations
from ggufkit.core.records import GgufFile
from ggufkit.llama import evaluates, memory
from ggufkit.llama.gguf import read_header
from ggufkit.measure import bench, chat, divergence, measurements, metrics, perplexity, plugged, similarity
from ggufkit.measure.bench import BenchOptions
from ggufkit.measure.conditions import Setting, with_caches
from ggufkit.measure.evaluation import EvalOptions, Evaluation
from ggufkit.measure.logits.strategy import Transport
from ggufkit.measure.tasks import scores
from ggufkit.measure.tasks.answers import Asking
from ggufkit.pipeline.job import Job
from ggufkit.pipeline.pieces import evaluated, n_vocab
from ggufkit.steps.step import Result


def evaluate(job: Job, base: GgufFile, files: Sequence[GgufFile]) -> list[Result]:
    """Measure the quality of files, and of their base, in each setting."""
    every: list[Result] = []
    for setting in _settings(job, base):
        started = time.monotonic()
        done = _measure(job, base, setting.runs(base, files), _evaluation(job, setting))
        _note_pace(job, base, done, time.monotonic() - started)
        every += done
    return every


def at_once(job: Job, base: GgufFile, n_files: int) -> int:
    """How many files are evaluated together: all at once, or on a GPU as many as one base pass serves."""
    settings, together = _settings(job, base), evaluates.embeds(read_header(base.path))
    if not settings or together or not job.request.evaluation.kld or job.tools.backend == "cpu" or not n_files:
        return max(1, n_files)
    runs = 1 + len(settings[0].kv_types)
    served = divergence.at_once(base, runs * n_files, _evaluation(job, settings[0]), _transport(job))
    return served // runs or 1


def is_one_pass(job: Job) -> bool:
    """Whether files have to be evaluated in one command: their logits fit no file, or how much is enough depends on all."""
    how = job.request.evaluation
    if not how.kld:
        return False
    return bool(how.precision) or any(_logits(job, setting) > how.scratch_limit for setting in job.settings)


def _logits(job: Job, setting: Setting) -> int:
    """Bytes of base logits at most."""
    fixed, per_chunk = memory.logits_of(n_vocab(job), setting.n_ctx)
    possible = setting.text.n_bytes // setting.n_ctx + 1  # a token is a byte at least
    return fixed + per_chunk * min(setting.n_chunks or possible, possible)


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
    return Evaluation(setting.text, options, setting.session(job.session), kept=job.kept)


def _transport(job: Job) -> Transport:
    return Transport(job.request.evaluation.scratch_limit, job.request.evaluation.strategy)


def speak(job: Job, files: Sequence[GgufFile]) -> list[Result]:
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


def ask(job: Job, files: Sequence[GgufFile]) -> list[Result]:
    """Ask all files questions, and compare their answers with those of the base, the first."""
    if job.tasks and not evaluates.generates(read_header(files[0].path)):
        job.reporter.info("No file is asked questions: an encoder answers none.")
        return []
    asked = [Asking(data, job.request.run.ngl, job.session) for data in job.tasks]
    return [result for one in asked for result in scores.measure_all(files[0], files[1:], one)]


def by_packages(job: Job, files: Sequence[GgufFile]) -> list[Result]:
    """Measure what metrics of installed packages say of all files, the base first."""
    asked = [metrics.find(name) for name in job.request.evaluation.metrics]
    return [plugged.measure(file, files[0], metric, job.text, job.session) for metric in asked for file in files]


def time_all(job: Job, files: Sequence[GgufFile]) -> list[Result]:
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
