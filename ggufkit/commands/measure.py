"""Commands that measure: perplexity, bench."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ggufkit.commands.places import beside, checkpoint_of
from ggufkit.core import values
from ggufkit.core.errors import InputError, UsageError
from ggufkit.core.manifest import read_manifest
from ggufkit.core.part_names import stem_of
from ggufkit.core.progress import Reporter
from ggufkit.core.records import GgufFile, Measurement, ResultRow
from ggufkit.formats import known
from ggufkit.formats.known import Subject
from ggufkit.llama import evaluates, kv_cache
from ggufkit.llama.gguf import read_header
from ggufkit.measure import bench as timing
from ggufkit.measure import checkpoints, divergence
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
from ggufkit.modelfile import chat_texts
from ggufkit.models import sources
from ggufkit.report import conditions, results, unevenness
from ggufkit.request import EvaluationOptions, RunOptions, Source
from ggufkit.steps import convert
from ggufkit.steps.convert import ConvertNotes
from ggufkit.steps.step import Result
from ggufkit.texts import corpus

_ENCODER = (
    "`ggufkit build` compares the embeddings of its quantized files with those of the F16: cosine similarity."
)


@dataclass(frozen=True)
class Evaluated:
    """What is evaluated.

    Args:
        given: GGUFs, as paths; checkpoints, as texts: a directory, hf:MODEL, or what is to be made, hf:nf4.
        base: the GGUF that they are compared with.
        model: the checkpoint to make formats of; None for the one that the base was converted from.
        out: directory of what is measured, None for that of the first GGUF.
    """

    given: tuple[Path | str, ...]
    base: Path | None = None
    model: str | None = None
    out: Path | None = None

    @property
    def ggufs(self) -> list[Path]:
        """All GGUFs, the base first."""
        paths = [one for one in self.given if isinstance(one, Path)]
        if self.base is None:
            return paths
        return [self.base, *(path for path in paths if path.resolve() != self.base.resolve())]

    @property
    def checkpoints(self) -> list[str]:
        """All that is no GGUF."""
        return [one for one in self.given if isinstance(one, str)]

    @property
    def place(self) -> Path:
        """Where what is measured goes."""
        return self.out or beside(next((one for one in self.given if isinstance(one, Path)), self.ggufs[0]))


@dataclass(frozen=True)
class Measured:
    """Files and what was measured of them, in the same order; `out` is where it lies.

    `further` is what was measured of them in other settings and with other KV caches, `others` of checkpoints.
    """

    files: tuple[GgufFile, ...]
    results: tuple[Result, ...]
    out: Path
    further: tuple[Result, ...] = ()
    others: tuple[Result, ...] = ()

    @property
    def measurements(self) -> list[list[Measurement]]:
        """Of each file; what is compared with a base is compared with its own perplexity. Raises InputError."""
        return against_own_bases([load(result.path) for result in self.results])

    @property
    def further_measurements(self) -> list[list[Measurement]]:
        """Of each file in each other setting and with each other KV cache. Raises InputError."""
        every = [*self.results, *self.further]
        return against_own_bases([load(result.path) for result in every])[len(self.results) :]

    @property
    def rows(self) -> list[ResultRow]:
        """Of each file. Raises InputError."""
        return [results.row_of(file, found) for file, found in zip(self.files, self.measurements, strict=True)]

    @property
    def everything(self) -> list[conditions.Measured]:
        """All that was measured of the files, with their rows. Raises InputError."""
        kept_in = [result.path for result in (*self.results, *self.further)]
        return conditions.of_rows(self.rows, self.measurements, self.further_measurements, kept_in)


def perplexity(target: Evaluated, evaluation: EvaluationOptions, run: RunOptions, reporter: Reporter) -> Measured:
    """Perplexity of GGUFs on a text; with a base, which comes first, KL divergence from it, also of checkpoints. Raises
    GgufkitError."""
    base = target.base
    if evaluation.precision is not None and base is None:
        raise UsageError("--precision is about KL divergence.", hint="Give the file to compare with as --base.")
    others = _subjects(target, evaluation, reporter)
    require_different_names(target.ggufs)
    files = [sources.open_gguf(path, reporter) for path in target.ggufs]
    for path in (file.path for file in files):
        evaluates.require_generates(path, "has no perplexity", _ENCODER)
        warn_of_guess(path, reporter)
    warn_of_context(files[0].path, evaluation.contexts, reporter)
    named = [corpus.resolve(name, reporter) for name in evaluation.corpora]
    texts = [chat_texts.rendered(text, files[0], reporter) for text in named]
    for text in texts:
        warn_of_special_tokens(files[0].path, text, reporter)
    for kind in evaluation.kv_types:
        kv_cache.require_possible(read_header(files[0].path), kind, files[0].path.name)
    session = run.session(target.place, reporter)
    for i, text in enumerate(texts):
        require_two_contexts(files[0].path, text, evaluation.contexts[: 1 if i else None], session)
    done: list[Result] = []
    measured: list[Result] = []
    with session.workspace.locked():
        for setting in settings(texts, evaluation.contexts, evaluation.chunks, evaluation.kv_types):
            how = EvalOptions(setting.n_ctx, setting.n_chunks, run.ngl, evaluation.precision)
            asked = Evaluation(setting.text, how, setting.session(session))
            if base is None:
                done += predicting.measure_all([*files, *with_caches(files, setting.kv_types)], asked)
            else:
                transport = Transport(evaluation.scratch_limit, evaluation.strategy)
                done += divergence.measure_all(files[0], setting.runs(files[0], files[1:]), asked, transport)
                if setting.is_first:  # that of the table
                    measured = checkpoints.measure_all(files[0], others, asked, transport, load(done[0].path))
    n = len(files)
    found = Measured(tuple(files), tuple(done[:n]), session.workspace.root, tuple(done[n:]), tuple(measured))
    for sentence in unevenness.several(found.everything).sentences:
        reporter.warn(sentence)
    return found


def _subjects(target: Evaluated, evaluation: EvaluationOptions, reporter: Reporter) -> list[Subject]:
    """The checkpoints that are evaluated. Raises GgufkitError where one cannot be."""
    if target.checkpoints and target.base is None:
        message = f"{target.checkpoints[0]} is measured against a GGUF, whose vocabulary splits the text."
        raise UsageError(message, hint="Give the F16 GGUF of the same model as --base.")
    found = [_subject(one.removeprefix(values.CHECKPOINT), target, reporter) for one in target.checkpoints]
    checkpoints.require_measurable(found, evaluation.precision)
    labels = [one.label for one in found]
    if twice := next((label for label in labels if labels.count(label) > 1), None):
        hint = "Measure each with an --out of its own."
        raise InputError(f"Two checkpoints are called {twice}: their results would be mixed up.", hint=hint)
    return found


def _subject(word: str, target: Evaluated, reporter: Reporter) -> Subject:
    makes = word in known.FORMATS
    model = (target.model or _converted_from(target.base)) if makes else word
    if not model:
        message = f"{values.CHECKPOINT}{word} is made of a checkpoint, and none is known."
        raise UsageError(message, hint="Give it with --model: its directory, or its name on a hub.")
    checkpoint = checkpoint_of(model, Source(), reporter, "Give it without hf: before it.")
    return known.subject(checkpoint, word if makes else None)


def _converted_from(base: Path | None) -> str:
    """What a GGUF was converted from, by its manifest; "" where that is not known."""
    made = read_manifest(base) if base is not None else None
    return ConvertNotes.from_manifest(made).source if made is not None and made.step == convert.STEP else ""


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
    stems = [stem_of(path) for path in paths]
    twice = next((s for s in stems if stems.count(s) > 1), None)
    if twice is not None:
        hint = "Measure each with an --out of its own."
        raise InputError(f"Two of these files are called {twice}: their results would be mixed up.", hint=hint)
