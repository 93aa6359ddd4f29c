"""Step: how far a Hugging Face checkpoint, quantized or not, is from a GGUF base: by transformers, on llama-perplexity's
ruler.

llama-perplexity saves what the base predicts, and with it the tokens; the checkpoint is evaluated on these tokens, cut
into the same chunks, and compared with the same saved predictions. Weights are what the format holds, arithmetic is in
float32, and in what the format prescribes for inputs.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import math
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ggufkit.core import extras, failures, machine
from ggufkit.core.concurrency import Task, run_processes
from ggufkit.core.errors import CheckpointError, ResourceError, ToolError, UsageError
from ggufkit.core.inputs import Input
from ggufkit.core.process import ToolOutput
from ggufkit.core.records import Conditions, GgufFile, Measurement
from ggufkit.core.units import size
from ggufkit.formats import known
from ggufkit.formats.job import Evaluated, Job, read_evaluated, told
from ggufkit.formats.known import Subject
from ggufkit.llama import memory, toolchain, vocab
from ggufkit.llama.gguf import read_header
from ggufkit.llama.kld import Divergence
from ggufkit.measure import token_scores
from ggufkit.measure.divergence import values_of
from ggufkit.measure.evaluation import EvalNotes, EvalParams, Evaluation
from ggufkit.measure.logits import passes, pipes
from ggufkit.measure.logits.evaluate import strategy_for
from ggufkit.measure.logits.strategy import Transport
from ggufkit.measure.measurements import Figure, measured, next_number, save
from ggufkit.measure.paired import Scores
from ggufkit.measure.shares import Share
from ggufkit.measure.tool import refuse_short, run_tool
from ggufkit.models.files import files_of, fingerprint
from ggufkit.steps.session import Session
from ggufkit.steps.step import Made, Recipe, Result, staleness

STEP, VERSION = "checkpoint", 1
BACKEND = "transformers"
_PACKAGES = ("torch", "transformers")


@dataclass(frozen=True)
class CheckpointParams(EvalParams):
    """What decides a checkpoint's figures besides its files: its format, and the versions of what computes with it."""

    format: str = ""
    libraries: str = ""


@dataclass(frozen=True)
class CheckpointNotes(EvalNotes):
    """What is known of a checkpoint that was measured.

    Args:
        checkpoint, revision: where it comes from.
        name, format, type: of its row.
        size_bytes, n_params: of its weights.
    """

    checkpoint: str = ""
    revision: str = ""
    name: str = ""
    format: str = ""
    type: str = ""
    size_bytes: int = 0
    n_params: int = 0


def result_path(subject: Subject, session: Session) -> Path:
    """The file that holds a checkpoint's figures."""
    return session.workspace.measurements / f"{subject.label}.{STEP}.json"


def label_of(result: Result) -> str:
    """What a checkpoint is called whose figures these are."""
    return result.path.name.removesuffix(f".{STEP}.json")


def require_measurable(subjects: Sequence[Subject], precision: float | None) -> None:
    """Refuse at once what cannot be measured.

    Raises:
        MissingExtra: a library is not installed.
        UsageError: a precision is asked for, which is of files that llama-perplexity compares.
    """
    for one in subjects:
        if one.format.library:
            extras.require("formats", modules=(one.format.library,), purpose=f"Measuring {one.format.title}")
    if subjects:
        extras.require("convert", purpose="Measuring a checkpoint")
    if subjects and precision is not None:
        message = "--precision chooses a sample for GGUFs: checkpoints are measured on chunks of the text itself."
        raise UsageError(message, hint="Give --chunks, or measure them with a command of their own.")


def measure_all(
    base: GgufFile,
    subjects: Sequence[Subject],
    evaluation: Evaluation,
    transport: Transport,
    of_base: Sequence[Measurement] = (),
) -> list[Result]:
    """Measure how far each checkpoint is from the base, unless that is done already.

    Args:
        of_base: what was measured of the base itself: its own perplexity is compared with.

    Raises:
        CheckpointError: transformers cannot evaluate a checkpoint.
        ResourceError: memory does not hold it.
        ToolError: llama-perplexity failed.
    """
    work = _Work(base, evaluation, transport, of_base)
    recipes = [work.recipe(one) for one in subjects]
    stale = [work.is_stale(one, recipe) for one, recipe in zip(subjects, recipes, strict=True)]
    with work.source() if any(stale) else contextlib.nullcontext(_Source(Path(), False)) as source:
        return [work.result(one, recipe, source) for one, recipe in zip(subjects, recipes, strict=True)]


@dataclass(frozen=True)
class _Source:
    """Where the base's predictions come from: a file that is there, or a pipe that a base pass writes each time."""

    path: Path
    is_pipe: bool


@dataclass(frozen=True)
class _Work:
    base: GgufFile
    evaluation: Evaluation
    transport: Transport
    of_base: Sequence[Measurement]

    @property
    def session(self) -> Session:
        return self.evaluation.session

    def is_stale(self, subject: Subject, recipe: Recipe) -> bool:
        return self.session.force or staleness(recipe, result_path(subject, self.session)) is not None

    def recipe(self, subject: Subject) -> Recipe:
        inputs = {
            "checkpoint": fingerprint(subject.checkpoint.path, self.session.reporter),
            "base": str(self.base.sha256),
            "corpus": self.evaluation.corpus.sha256,
        }
        how, libraries = self.evaluation.options, _versions(subject)
        params = CheckpointParams(
            how.n_ctx, how.n_chunks, how.ngl, self.session.tools.backend, format=subject.format.name, libraries=libraries
        )  # fmt: skip
        checkpoint = Input(subject.checkpoint.path, inputs["checkpoint"], files_of)
        reads = (checkpoint, self.base.as_input(), self.evaluation.corpus.as_input())
        return Recipe(STEP, VERSION, inputs, params.to_params(), self.session.tools.identity, reads)

    @contextlib.contextmanager
    def source(self) -> Iterator[_Source]:
        """The base's predictions: by a file where the scratch limit holds them, which then are computed once."""
        chosen, scratch = (
            strategy_for(self.base, (), self.evaluation, self.transport),
            self.session.workspace.scratch,
        )
        if chosen.by_pipes:
            with pipes.named_pipes(scratch, 1) as (pipe,):
                yield _Source(pipe, True)
            return
        evaluation = self.evaluation.with_chunks(chosen.n_chunks)
        logits = scratch / "base.logits"
        logits.parent.mkdir(parents=True, exist_ok=True)
        try:
            run = passes.run_base(self.base, logits, evaluation, Share(self.session.threads))
            refuse_short(run, evaluation.text)
            failures.require_success(run, f"evaluating the base {self.base.path.name}")
            yield _Source(logits, False)
        finally:
            logits.unlink(missing_ok=True)

    def result(self, subject: Subject, recipe: Recipe, source: _Source) -> Result:
        output = result_path(subject, self.session)

        def make(partial: Path) -> Made:
            from ggufkit.formats.statistics import divergence
            from ggufkit.formats.tokens import read_tokens

            self._require_memory(subject)
            figures = partial.with_suffix(".npz")
            try:
                run, done = self._run(subject, source, figures)
                tokens = read_tokens(figures)
            finally:
                for file in (figures, told(figures)):
                    file.unlink(missing_ok=True)
            found = divergence(tokens, done.n_chunks, done.n_ctx)
            values = values_of(found, done.forward_s) | self._against_own_base(found)
            where, digest = self._conditions(done), recipe.inputs["checkpoint"]
            by_chunk = (done.n_chunks, -1)
            scores = Scores(
                token_scores.tokens_of(where),
                tokens.kld.reshape(by_chunk),
                (tokens.nll - tokens.nll_base).reshape(by_chunk),
            )
            token_scores.save(token_scores.path_of(output), digest, scores)
            save(partial, measured(digest, values, where))
            return Made([run], self._notes(subject, done, run, output).to_notes())

        return self.session.ensure(recipe, output, make)

    def _run(self, subject: Subject, source: _Source, figures: Path) -> tuple[ToolOutput, Evaluated]:
        """Evaluate in a process of its own, beside the base pass where that writes into a pipe."""
        job = figures.with_suffix(".job")
        job.write_text(json.dumps(asdict(self._job(subject, source, figures))), encoding="utf-8")
        try:
            if source.is_pipe:
                *_, run = self._run_beside_base(subject, job, source)
            else:
                run = self._evaluate(subject, job)
        except ToolError:
            _require_evaluated(figures)  # which says more than that a process ended
            raise
        finally:
            job.unlink()
        done = _require_evaluated(figures)
        failures.require_success(run, f"evaluating {subject.label}")
        if done is None:
            raise failures.explain(run, f"evaluating {subject.label}")
        return run, done

    def _job(self, subject: Subject, source: _Source, figures: Path) -> Job:
        session, held = self.session, known.subject(subject.checkpoint).format
        source_tree = toolchain.converter_source(session.tools, session.reporter)
        return Job(
            checkpoint=str(subject.checkpoint.path),
            kind=subject.format.name,
            made_of=held.name if held != subject.format else None,
            logits=str(source.path),
            beginning=vocab.beginning(session.tools.dir, source_tree, self.base.path),
            output=str(figures),
            threads=session.threads,
            device="cpu" if session.tools.backend == "cpu" else "auto",
        )

    def _evaluate(self, subject: Subject, job: Path, stop: threading.Event | None = None) -> ToolOutput:
        command = [sys.executable, "-m", "ggufkit.formats.evaluator", str(job)]
        title, log = f"{subject.format.title} of {subject.checkpoint.name}", f"checkpoint-{subject.label}"
        return run_tool(command, title, log, self.session, Share(self.session.threads), stop)

    def _run_beside_base(self, subject: Subject, job: Path, source: _Source) -> list[ToolOutput]:
        share = Share(self.session.threads)
        tasks = [
            Task(
                f"evaluating the base {self.base.path.name}",
                lambda stop: passes.run_base(self.base, source.path, self.evaluation, share, stop),
            ),
            Task(f"evaluating {subject.label}", lambda stop: self._evaluate(subject, job, stop)),
        ]
        return run_processes(tasks, lambda _stop: None)

    def _require_memory(self, subject: Subject) -> None:
        """Its weights in float32, the attention of a layer, and the predictions of a chunk, twice over."""
        header, n_ctx = read_header(self.base.path), self.evaluation.options.n_ctx
        heads = header.hparam("attention.head_count")
        needed = 4 * (self.base.n_params + 2 * heads * n_ctx**2 + 2 * memory.n_vocab(header) * n_ctx)
        free = machine.free_memory()
        if needed > free:
            message = f"{subject.label} takes {size(needed)} of memory under transformers; {size(free)} are free."
            raise ResourceError(message, hint="Close other programs, or give a smaller --ctx.")

    def _against_own_base(self, found: Divergence) -> dict[str, Figure]:
        """Its perplexity against that of the base's own pass: saved predictions are clipped, see `against_own_base`."""
        own = next((m for m in self.of_base if m.metric == "ppl"), None)
        if own is None or (own.conditions.n_ctx, own.conditions.n_chunks) != (found.n_ctx, found.n_chunks):
            return {}
        ratio = math.log(found.ppl[0] / own.value)
        return {"ppl_base": (own.value, None), "ln_ppl_ratio": (ratio, found.ln_ppl_ratio[1])}

    def _conditions(self, done: Evaluated) -> Conditions:
        session = self.session
        return Conditions(
            backend=BACKEND,
            device=machine.cpu_name() if done.device == "cpu" else done.device,
            ngl=None,
            threads=session.threads,
            machine=machine.describe(),
            llama_cpp_commit=session.tools.commit,
            corpus_sha256=self.evaluation.text.sha256,
            n_ctx=done.n_ctx,
            n_chunks=done.n_chunks,
            base_sha256=str(self.base.sha256),
            corpus=self.evaluation.text.name,
        )

    def _notes(self, subject: Subject, done: Evaluated, run: ToolOutput, output: Path) -> CheckpointNotes:
        one = subject.checkpoint
        return CheckpointNotes(
            round(run.duration_s, 3),
            self.evaluation.text.name,
            number=next_number(output),
            checkpoint=one.source,
            revision=one.revision or "",
            name=one.name,
            format=subject.format.column,
            type=subject.format.title,
            size_bytes=one.tensor_bytes if done.n_bytes is None else done.n_bytes,
            n_params=done.n_params,
        )


def _require_evaluated(figures: Path) -> Evaluated | None:
    """What an evaluation says of itself. Raises CheckpointError where it refused the checkpoint."""
    done = read_evaluated(figures)
    if done is not None and done.refused is not None:
        message, hint = done.refused
        raise CheckpointError(message, hint=hint or None)
    return done


def _versions(subject: Subject) -> str:
    """What computes: "torch 2.13.0, transformers 5.23.0"."""
    names = [*_PACKAGES, *([subject.format.library] if subject.format.library else [])]
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
