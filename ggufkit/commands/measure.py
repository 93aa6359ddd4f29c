"""Commands that measure: perplexity, bench."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ggufkit.commands.places import beside
from ggufkit.core.errors import InputError, UsageError
from ggufkit.core.progress import Reporter
from ggufkit.core.records import GgufFile, Measurement
from ggufkit.llama import evaluates
from ggufkit.measure import bench as timing
from ggufkit.measure import divergence
from ggufkit.measure import perplexity as predicting
from ggufkit.measure.bench import BenchOptions
from ggufkit.measure.evaluation import (
    EvalOptions,
    Evaluation,
    warn_of_context,
    warn_of_guess,
    warn_of_special_tokens,
)
from ggufkit.measure.logits.strategy import Transport
from ggufkit.measure.measurements import against_own_base, load
from ggufkit.models import sources
from ggufkit.request import EvaluationOptions, RunOptions
from ggufkit.steps.step import Result
from ggufkit.texts import corpus

_ENCODER = (
    "`ggufkit build` compares the embeddings of its quantized files with those of the F16: cosine similarity."
)


@dataclass(frozen=True)
class Measured:
    """Files and what was measured of them, in the same order; `out` is where it lies."""

    files: tuple[GgufFile, ...]
    results: tuple[Result, ...]
    out: Path

    @property
    def measurements(self) -> list[list[Measurement]]:
        """Of each file; what is compared with a base is compared with its own perplexity. Raises InputError."""
        loaded = [load(result.path) for result in self.results]
        by_hash = {file.sha256: found for file, found in zip(self.files, loaded, strict=True)}
        return [against_own_base(found, by_hash.get(_base_of(found), [])) for found in loaded]


def _base_of(found: Sequence[Measurement]) -> str | None:
    return next((m.conditions.base_sha256 for m in found), None)


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
    _require_different_names([*([base] if base else []), *paths])
    files = [sources.open_gguf(path, reporter) for path in ([base] if base else []) + paths]
    for path in (file.path for file in files):
        evaluates.require_generates(path, "has no perplexity", _ENCODER)
        warn_of_guess(path, reporter)
    warn_of_context(files[0].path, evaluation.ctx, reporter)
    text = corpus.resolve(evaluation.corpus, reporter)
    warn_of_special_tokens(files[0].path, text, reporter)
    session = run.session(out or beside(ggufs[0]), reporter)
    with session.workspace.locked():
        how = EvalOptions(evaluation.ctx, evaluation.chunks, run.ngl, evaluation.precision)
        asked = Evaluation(text, how, session)
        if base is None:
            done = predicting.measure_all(files, asked)
        else:
            transport = Transport(evaluation.scratch_limit, evaluation.strategy)
            done = divergence.measure_all(files[0], files[1:], asked, transport)
    return Measured(tuple(files), tuple(done), session.workspace.root)


def bench(
    ggufs: Sequence[Path], evaluation: EvaluationOptions, out: Path | None, run: RunOptions, reporter: Reporter
) -> Measured:
    """Prompt-processing and generation speed of GGUFs. Raises GgufkitError."""
    how = BenchOptions(repetitions=evaluation.bench_reps, ngl=run.ngl)
    _require_different_names(ggufs)
    files = [sources.open_gguf(path, reporter) for path in ggufs]
    session = run.session(out or beside(ggufs[0]), reporter)
    with session.workspace.locked():
        done = [timing.bench(file, how, session) for file in files]
    return Measured(tuple(files), tuple(done), session.workspace.root)


def _require_different_names(paths: Sequence[Path]) -> None:
    """Results lie in one directory, under the files' names."""
    stems = [path.stem for path in paths]
    twice = next((s for s in stems if stems.count(s) > 1), None)
    if twice is not None:
        hint = "Measure each with an --out of its own."
        raise InputError(f"Two of these files are called {twice}: their results would be mixed up.", hint=hint)
