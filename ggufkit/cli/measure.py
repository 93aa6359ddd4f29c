"""Commands that measure: perplexity, bench."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from ggufkit.cli import completion, options, parameter_types, request_options, tables
from ggufkit.cli.options import grouped
from ggufkit.cli.terminal import console, emit, reporting
from ggufkit.commands import measure
from ggufkit.commands.measure import Evaluated, Measured
from ggufkit.core.records import Measurement
from ggufkit.measure import checkpoints
from ggufkit.measure.measurements import load
from ggufkit.report import caches, results, unevenness
from ggufkit.request import EvaluationOptions, RunOptions

target_options = grouped(
    "target",
    lambda given: Evaluated(given.pop("ggufs"), **given),
    click.argument("ggufs", metavar="GGUF|CHECKPOINT...", nargs=-1, required=True, type=parameter_types.EVALUATED),
    click.option("--base", type=parameter_types.FILE,
                 help="GGUF to measure the KL divergence from: the F16 they come from."),
    click.option("--model", shell_complete=completion.models,
                 help="The checkpoint that hf:nf4 and hf:int8 are made of.  [default: what the base was converted from]"),
    click.option("--out", type=parameter_types.PATH,
                 help="Directory for what is measured and logged.  [default: beside the first GGUF]"),
)  # fmt: skip
GGUFS = click.argument("ggufs", nargs=-1, required=True, type=parameter_types.FILE)
OUT = click.option(
    "--out",
    type=parameter_types.PATH,
    help="Directory for what is measured and logged.  [default: beside the first GGUF]",
)


@click.command("perplexity")
@target_options
@request_options.evaluation_options
@request_options.run_options
@options.json_option
def perplexity_command(target: Evaluated, evaluation: EvaluationOptions, run: RunOptions, as_json: bool) -> None:
    """Perplexity of GGUF files on a text; with --base their KL divergence from it, too.

    Beside them Hugging Face checkpoints, quantized or not, are measured on the same tokens under transformers: a directory,
    hf:MODEL, or hf:nf4 and hf:int8, which bitsandbytes makes of the original checkpoint.

    Several files are shown as a table; --json has all that was measured.

    \b
    Examples:
        ggufkit perplexity model-Q4_K_M.gguf --corpus wiki.test.raw --chunks 100
        ggufkit perplexity model-*.gguf --base model-F16.gguf --precision 2%
        ggufkit perplexity hf:nf4 ./m-AWQ --base m-F16.gguf --model ./m
    """
    with reporting() as reporter:
        done = measure.perplexity(target, evaluation, run, reporter)
    if as_json or (len(done.files) + len(done.others) == 1 and not done.further):
        _show(done, as_json)
    else:
        rows = [*done.rows, *results.rows_of_checkpoints(done.others)]
        console(stderr=False).print(tables.quality_table(rows))
        everything = done.everything
        for part in tables.further(caches.further(everything), unevenness.several(everything)):
            console(stderr=False).print(part)


def _show(done: Measured, as_json: bool) -> None:
    further = done.further_measurements
    found = [
        (file.path.name, [*ms, *(m for group in further for m in group if m.file_sha256 == file.sha256)])
        for file, ms in zip(done.files, done.measurements, strict=True)
    ]
    found += [(checkpoints.label_of(one), load(one.path)) for one in done.others]
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
    with reporting() as reporter:
        done = measure.bench(ggufs, evaluation, out, run, reporter)
    _show(done, as_json)
