"""Step: how well a GGUF predicts a text, by llama-perplexity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from ggufkit.core import failures
from ggufkit.core.concurrency import run_in_slots
from ggufkit.core.errors import ToolOutputError
from ggufkit.core.process import ToolOutput
from ggufkit.core.records import GgufFile
from ggufkit.llama import argv, evaluates, logs
from ggufkit.llama.logs import Estimate
from ggufkit.measure import shares
from ggufkit.measure.evaluation import EvalNotes, Evaluation
from ggufkit.measure.measurements import Figure, measured, next_number, place, save
from ggufkit.measure.shares import Share
from ggufkit.measure.tool import ATTEMPTS, pays_to_pin, reads, refuse_short, require_read, run_tool
from ggufkit.steps import offload
from ggufkit.steps.session import Session
from ggufkit.steps.step import Made, Recipe, Result

STEP, VERSION = "perplexity", 1


def result_path(gguf: GgufFile, session: Session) -> Path:
    """The file that holds a GGUF's perplexity."""
    return place(gguf, STEP, session.workspace)


def recipe(gguf: GgufFile, evaluation: Evaluation) -> Recipe:
    """What decides a file's perplexity."""
    inputs = {"gguf": str(gguf.sha256), "corpus": evaluation.corpus.sha256}
    reads = (gguf.as_input(), evaluation.corpus.as_input())
    return Recipe(STEP, VERSION, inputs, evaluation.params(gguf), evaluation.session.tools.identity, reads)


def measure_all(files: Sequence[GgufFile], evaluation: Evaluation) -> list[Result]:
    """Measure the perplexity of several files, on GPUs as many at once as pays. Raises as `measure` does.

    A file that no GPU holds gets all of them, before the others.
    """
    session, n_ctx = evaluation.session, evaluation.options.n_ctx
    free = [gpu.memory_free for gpu in offload.gpus(session)]
    large = [f for f in files if free and offload.place([shares.memory_needed(f, n_ctx)], free) is None]
    done = {file.run: measure(file, evaluation) for file in large}
    rest = [f for f in files if f.run not in done]
    made = run_in_slots([partial(measure, f, evaluation) for f in rest], shares.slots(rest, n_ctx, session))
    done |= zip((f.run for f in rest), made, strict=True)
    return [done[file.run] for file in files]


def measure(gguf: GgufFile, evaluation: Evaluation, share: Share | None = None) -> Result:
    """Measure a file's perplexity unless that is done already; the result is a file of measurements.

    Args:
        share: what the process may use, all of the machine by default.

    Raises:
        CorpusError: the text has fewer than two chunks.
        ToolError: llama-perplexity failed, or gave no finite estimate.
    """
    session = evaluation.session

    def make(partial_path: Path) -> Made:
        shares.require_memory(gguf, evaluation.options.n_ctx, session, at_once=1)
        run, estimate = _run_and_parse(gguf, evaluation, share or Share(session.threads))
        return write(partial_path, gguf, run, estimate, evaluation)

    return session.ensure(recipe(gguf, evaluation), result_path(gguf, session), make)


def write(
    partial_path: Path,
    gguf: GgufFile,
    run: ToolOutput,
    estimate: Estimate,
    evaluation: Evaluation,
    base_sha256: str | None = None,
) -> Made:
    """Write the measurements of a pass that is done."""
    values: dict[str, Figure] = {
        "ppl": (estimate.ppl, estimate.stderr),
        "eval_tps": (estimate.n_chunks * estimate.n_ctx / run.duration_s, None),
    }
    where = evaluation.conditions(run, estimate.n_ctx, estimate.n_chunks, base_sha256)
    save(partial_path, measured(str(gguf.sha256), values, replace(where, kv_type=gguf.kv_type)))
    number = next_number(result_path(gguf, evaluation.session))
    return Made([run], EvalNotes(round(run.duration_s, 3), evaluation.text.name, number=number).to_notes())


def _run_and_parse(gguf: GgufFile, evaluation: Evaluation, share: Share) -> tuple[ToolOutput, Estimate]:
    """Run until there is an estimate. A log that lost its tail is worth another try."""
    run, estimate = offload.with_fewer(
        lambda ngl: _attempt(gguf, evaluation.with_layers(ngl), share),
        evaluation.options.ngl,
        gguf,
        evaluation.session,
    )
    offload.tell(gguf, logs.parse_placement(run), evaluation.session)
    return run, estimate


def _attempt(gguf: GgufFile, evaluation: Evaluation, share: Share) -> tuple[ToolOutput, Estimate]:
    session = evaluation.session
    title, log = f"Perplexity of {gguf.run_name}", f"perplexity-{gguf.run_stem}"
    for attempt in range(1, ATTEMPTS + 1):
        compute = evaluation.compute(gguf, share.threads)
        command = argv.perplexity(session.tools, gguf.path, evaluation.excerpt, compute)
        reading = reads(evaluation.text, share, session)
        run = run_tool([*command, *evaluates.overrides(gguf.path)], title, log, session, reading)
        refuse_short(run, evaluation.text)
        failures.require_success(run, f"evaluating {gguf.run_name}")
        require_read(run, evaluation.text)
        try:
            return run, logs.parse_perplexity(run)
        except ToolOutputError as error:
            if attempt == ATTEMPTS or not logs.lost_tail(run):
                raise
            session.reporter.info(f"{error.message} Trying once more.")
        share = shares.pinned() if pays_to_pin(run.duration_s, session) else share
    raise AssertionError("unreachable")
