"""Commands that measure: perplexity, bench."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import click

from ggufkit.cli import options, parameter_types, request_options
from ggufkit.cli.terminal import console, emit, reporting
from ggufkit.core.errors import InputError, UsageError
from ggufkit.core.records import GgufFile, Measurement
from ggufkit.llama import evaluates
from ggufkit.measure import bench, divergence, measurements, perplexity
from ggufkit.measure.bench import BenchOptions
from ggufkit.measure.evaluation import (
    EvalOptions,
    Evaluation,
    warn_of_context,
    warn_of_guess,
    warn_of_special_tokens,
)
from ggufkit.measure.logits.strategy import Transport
from ggufkit.models import sources
from ggufkit.request import EvaluationOptions, RunOptions
from ggufkit.steps.step import Result
from ggufkit.texts import corpus

GGUFS = click.argument("ggufs", nargs=-1, required=True, type=parameter_types.FILE)
_ENCODER = (
    "`ggufkit build` compares the embeddings of its quantized files with those of the F16: cosine similarity."
)
OUT = click.option(
    "--out",
    type=parameter_types.PATH,
    help="Directory for what is measured and logged.  [default: beside the first GGUF]",
)


@click.command("perplexity")
@GGUFS
@click.option(
    "--base", type=parameter_types.FILE, help="GGUF to measure the KL divergence from: the F16 they come from."
)
@request_options.evaluation_options
@OUT
@request_options.run_options
@options.json_option
def perplexity_command(
    ggufs: tuple[Path, ...],
    base: Path | None,
    evaluation: EvaluationOptions,
    out: Path | None,
    run: RunOptions,
    as_json: bool,
) -> None:
    """Perplexity of GGUF files on a text; with --base their KL divergence from it, too.

    \b
    Examples:
        ggufkit perplexity model-Q4_K_M.gguf --corpus wiki.test.raw --chunks 100
        ggufkit perplexity model-*.gguf --base model-F16.gguf --precision 2%
    """
    paths = [path for path in ggufs if base is None or path.resolve() != base.resolve()]
    if evaluation.precision is not None and base is None:
        raise UsageError("--precision is about KL divergence.", hint="Give the file to compare with as --base.")
    with reporting() as reporter:
        _require_different_names([*([base] if base else []), *paths])
        files = [sources.open_gguf(path, reporter) for path in ([base] if base else []) + paths]
        for path in (file.path for file in files):
            evaluates.require_generates(path, "has no perplexity", _ENCODER)
            warn_of_guess(path, reporter)
        warn_of_context(files[0].path, evaluation.ctx, reporter)
        text = corpus.resolve(evaluation.corpus, reporter)
        warn_of_special_tokens(files[0].path, text, reporter)
        session = run.session(out or options.beside(ggufs[0]), reporter)
        with session.workspace.locked():
            how = EvalOptions(evaluation.ctx, evaluation.chunks, run.ngl, evaluation.precision)
            asked = Evaluation(text, how, session)
            if base is None:
                done = perplexity.measure_all(files, asked)
            else:
                transport = Transport(evaluation.scratch_limit, evaluation.strategy)
                done = divergence.measure_all(files[0], files[1:], asked, transport)
    _show(files, done, as_json)


def _require_different_names(paths: Sequence[Path]) -> None:
    """Results lie in one directory, under the files' names."""
    stems = [path.stem for path in paths]
    twice = next((s for s in stems if stems.count(s) > 1), None)
    if twice is not None:
        hint = "Measure each with an --out of its own."
        raise InputError(f"Two of these files are called {twice}: their results would be mixed up.", hint=hint)


def _show(files: Sequence[GgufFile], done: Sequence[Result], as_json: bool) -> None:
    found = [(file.path.name, measurements.load(result.path)) for file, result in zip(files, done, strict=True)]
    if as_json:
        emit(json.dumps({name: [asdict(m) for m in ms] for name, ms in found}, indent=1) + "\n")
        return
    screen = console(stderr=False)
    for name, values in found:
        screen.print(name)
        for m in values:
            screen.print(f"  {_line(m)}")


def _line(m: Measurement) -> str:
    error = "" if m.stderr is None else f" ± {m.stderr:.5g}"
    return f"{m.metric:<10} {m.value:.8g}{error} {m.unit}".rstrip()


@click.command("bench")
@GGUFS
@request_options.bench_options
@OUT
@request_options.run_options
@options.json_option
def bench_command(
    ggufs: tuple[Path, ...], evaluation: EvaluationOptions, out: Path | None, run: RunOptions, as_json: bool
) -> None:
    """Prompt-processing (pp512) and generation (tg128) speed of GGUF files.

    \b
    Example:
        ggufkit bench model-Q4_K_M.gguf model-Q8_0.gguf
    """
    timing = BenchOptions(repetitions=evaluation.bench_reps, ngl=run.ngl)
    with reporting() as reporter:
        _require_different_names(ggufs)
        files = [sources.open_gguf(path, reporter) for path in ggufs]
        session = run.session(out or options.beside(ggufs[0]), reporter)
        with session.workspace.locked():
            done = [bench.bench(file, timing, session) for file in files]
    _show(files, done, as_json)
