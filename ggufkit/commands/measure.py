"""Commands that measure: perplexity, bench."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ggufkit.commands.places import beside
from ggufkit.core.errors import InputError, UsageError
from ggufkit.core.progress import Reporter
from ggufkit.core.records import GgufFile, Measurement
from ggufkit.llama import evaluates, kv_cache
from ggufkit.llama.gguf import read_header
from ggufkit.measure import bench as timing
from ggufkit.measure import divergence
from ggufkit.measure import perplexity as predicting
from ggufkit.measure.bench import BenchOptions
from ggufkit.measure.conditions import settings, with_caches
from ggufkit.measure.evaluation import (
    EvalOptions,
    Evaluation,
    warn_of_context,
    warn_of_guess,
    warn_of_special_tokens,
)
from ggufkit.measure.length import require_two_contexts
from ggufkit.measure.logits.strategy import Transport
from ggufkit.measure.measurements import against_own_bases, load
from ggufkit.models import sources
from ggufkit.request import EvaluationOptions, RunOptions
from ggufkit.steps.step import Result
from ggufkit.texts import corpus

_ENCODER = (
    "`ggufkit build` compares the embeddings of its quantized files with those of the F16: cosine similarity."
)


@dataclass(frozen=True)
class Measured:
    """Files and what was measured of them, in the same order; `out` is where it lies.

    `further` is what was measured of them in other settings and with other KV caches.
    """

    files: tuple[GgufFile, ...]
    results: tuple[Result, ...]
    out: Path
    further: tuple[Result, ...] = ()

    @property
    def measurements(self) -> list[list[Measurement]]:
        """Of each file; what is compared with a base is compared with its own perplexity. Raises InputError."""
        return against_own_bases([load(result.path) for result in self.results])

    @property
    def further_measurements(self) -> list[list[Measurement]]:
        """Of each file in each other setting and with each other KV cache. Raises InputError."""
        every = [*self.results, *self.further]
        return against_own_bases([load(result.path) for result in every])[len(self.results) :]


def perplexity(
    ggufs: Sequence[Path],
    base: Path | None,
    evaluation: EvaluationOptions,
    out: Path | None,
    run: RunOptions,
    reporter: Reporter,
) -> Measured:
    """Perplexity of GGUFs on a text; with a base, which comes first, their KL divergence from it. Raises GgufkitError."""
    paths = [path for path in ggufs if base is None or path.resolve() != base.resolve()]
    if evaluation.precision is not None and base is None:
        raise UsageError("--precision is about KL divergence.", hint="Give the file to compare with as --base.")
    require_different_names([*([base] if base else []), *paths])
    files = [sources.open_gguf(path, reporter) for path in ([base] if base else []) + paths]
    for path in (file.path for file in files):
        evaluates.require_generates(path, "has no perplexity", _ENCODER)
        warn_of_guess(path, reporter)
    warn_of_context(files[0].path, evaluation.contexts, reporter)
    text = corpus.resolve(evaluation.corpus, reporter)
    warn_of_special_tokens(files[0].path, text, reporter)
    for kind in evaluation.kv_types:
        kv_cache.require_possible(read_header(files[0].path), kind, files[0].path.name)
    session = run.session(out or beside(ggufs[0]), reporter)
    require_two_contexts(files[0].path, text, evaluation.contexts, session)
    done: list[Result] = []
    with session.workspace.locked():
        for setting in settings(text, evaluation.contexts, evaluation.chunks, evaluation.kv_types):
            how = EvalOptions(setting.n_ctx, setting.n_chunks, run.ngl, evaluation.precision)
            asked = Evaluation(setting.text, how, setting.session(session))
            if base is None:
                done += predicting.measure_all([*files, *with_caches(files, setting.kv_types)], asked)
            else:
                transport = Transport(evaluation.scratch_limit, evaluation.strategy)
                done += divergence.measure_all(files[0], setting.runs(files[0], files[1:]), asked, transport)
    n = len(files)
    return Measured(tuple(files), tuple(done[:n]), session.workspace.root, tuple(done[n:]))


def bench(
    ggufs: Sequence[Path], evaluation: EvaluationOptions, out: Path | None, run: RunOptions, reporter: Reporter
) -> Measured:
    """Prompt-processing and generation speed of GGUFs. Raises GgufkitError."""
    how = BenchOptions(repetitions=evaluation.bench_reps, ngl=run.ngl)
    require_different_names(ggufs)
    files = [sources.open_gguf(path, reporter) for path in ggufs]
    session = run.session(out or beside(ggufs[0]), reporter)
    with session.workspace.locked():
        done = [timing.bench(file, how, session) for file in files]
    return Measured(tuple(files), tuple(done), session.workspace.root)


def require_different_names(paths: Sequence[Path]) -> None:
    """Results lie in one directory, under the files' names. Raises InputError where two have the same."""
    stems = [path.stem for path in paths]
    twice = next((s for s in stems if stems.count(s) > 1), None)
    if twice is not None:
        hint = "Measure each with an --out of its own."
        raise InputError(f"Two of these files are called {twice}: their results would be mixed up.", hint=hint)
