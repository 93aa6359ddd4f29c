"""Commands that make files: build, convert, quantize, demo."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ggufkit import report
from ggufkit.cli import options, quality, show
from ggufkit.cli.terminal import console, reporting
from ggufkit.core import extras, variants
from ggufkit.core.errors import InputError, UsageError
from ggufkit.core.progress import Reporter
from ggufkit.core.records import GgufFile
from ggufkit.core.units import size
from ggufkit.llama import quants, toolchain
from ggufkit.llama.gguf import read_header
from ggufkit.models import sources
from ggufkit.models.lora import merge
from ggufkit.models.sources import SourceOptions
from ggufkit.pipeline import build, plan
from ggufkit.pipeline.build import BuildResult
from ggufkit.pipeline.job import BuildRequest, refuse_inside, unused_option
from ggufkit.pipeline.resources import Plan
from ggufkit.report.choose import MemoryBudget
from ggufkit.steps import convert, quantize, step
from ggufkit.steps.convert import ConvertOptions
from ggufkit.steps.imatrix import ImatrixOptions, make_imatrix, require_fits
from ggufkit.steps.quantize import QuantizeOptions
from ggufkit.steps.session import Session
from ggufkit.texts import calibration_text

BASE_TYPES = click.Choice(["f16", "bf16", "f32"])


@click.command("build")
@click.argument("model")
@click.option(
    "--types",
    type=options.NAMES,
    default="q4_k_m,q5_k_m,q8_0,f16",
    show_default=True,
    metavar="LIST",
    help="Types of llama-quantize, comma-separated.",
)
@click.option(
    "--variants",
    type=options.NAMES,
    default="plain",
    show_default=True,
    metavar="LIST",
    help=f"Of {', '.join(variants.BY_NAME)}.",
)
@click.option(
    "--out", type=options.PATH, help="Output directory.  [default: ./<name>; ./<name>-gguf beside MODEL]"
)
@click.option("--base-type", type=BASE_TYPES, default="f16", show_default=True, help="Type of the base.")
@options.calibration_options
@click.option("--imatrix", type=options.FILE, help="Your own importance matrix, for --variants imatrix, gptq.")
@options.awq_options
@options.eval_options
@click.option("--no-eval", is_flag=True, help="Measure no quality.")
@click.option("--no-bench", is_flag=True, help="Measure no speed.")
@click.option(
    "--bench-reps", type=click.IntRange(1, 1000), default=5, show_default=True, help="Repetitions of llama-bench."
)
@click.option("--kld/--no-kld", default=True, show_default=True, help="KL divergence against the base.")
@quality.scratch_option
@quality.precision_option
@quality.fits_options
@click.option("--smoke", is_flag=True, help="Let each file speak; fail on garbage that the base does not speak.")
@options.backend_options
@options.source_options
@options.convert_options
@click.option("--allow-requantize", is_flag=True, help="Accept a .gguf that is quantized already.")
@click.option(
    "--dry-run", is_flag=True, help="Show the plan; write nothing, and fetch no weights from Hugging Face."
)
@options.redo_options
@options.json_option
def build_command(**given: Any) -> None:  # fmt: skip
    """Convert, quantize, measure and report MODEL.

    MODEL is an alias, OWNER/NAME[@REVISION] on Hugging Face, ms:OWNER/NAME on ModelScope, a checkpoint directory,
    or a .gguf file in F32, F16 or BF16.

    \b
    Examples:
        ggufkit build qwen2.5-0.5b --types q4_k_m,q8_0
        ggufkit build ./my-checkpoint --lora ./my-adapter
        ggufkit build model-F16.gguf --types q4_k_m --no-bench --dry-run
    """
    dry_run, as_json = given.pop("dry_run"), given.pop("as_json")
    if given["precision"] is not None and (given["no_eval"] or not given["kld"]):
        raise UsageError("--precision is about KL divergence.", hint="Leave out --no-kld and --no-eval.")
    request = _request(**given)
    if (unused := unused_option(request)) is not None:
        raise unused
    with reporting() as reporter:
        outcome = plan.plan(request, reporter) if dry_run else build.build(request, reporter)
    if isinstance(outcome, Plan):
        _show_plan(outcome, as_json)
    else:
        _show_results(outcome, as_json, MemoryBudget(request.fits, request.fits_ctx))


def _request(no_eval: bool, no_bench: bool, **given: Any) -> BuildRequest:
    return BuildRequest(evaluate=not no_eval, bench=not no_bench, **given)


def _show_plan(plan: Plan, as_json: bool) -> None:
    if as_json:
        import json
        from dataclasses import asdict

        click.echo(json.dumps(asdict(plan), indent=1))
        return
    screen = console(stderr=False)
    screen.print(show.plan_table(plan))
    screen.print(show.steps_table(plan))
    screen.print(f"Disk at the peak: {size(plan.disk_needed)} of {size(plan.disk_free)} free.")
    screen.print(f"Memory: about {size(plan.ram_needed)} of {size(plan.ram_free)} free.")
    for file in plan.files:
        if file.note:
            screen.print(f"[yellow]{file.type}[/yellow]: {file.note}.")


def _show_results(result: BuildResult, as_json: bool, budget: MemoryBudget | None = None) -> None:
    if as_json:
        from ggufkit.report import tables

        click.echo(tables.to_json(result.rows), nl=False)
        return
    screen = console(stderr=False)
    screen.print(show.results_table(result.rows))
    state = "Nothing had to be done again" if result.made == 0 else "Done"
    for sentence in report.conclusions(result.rows, result.out, budget):
        screen.print(sentence, markup=False)
    screen.print(f"{state}: {result.out}/results.csv, report.md, report.html", markup=False)


@click.command("convert")
@click.argument("model")
@click.option("--out", type=options.PATH, help="Output directory.  [default: beside MODEL; from a hub: .]")
@click.option("--type", "out_type", type=BASE_TYPES, default="f16", show_default=True, help="Type of the result.")
@options.source_options
@options.convert_options
@options.redo_options
def convert_command(
    model: str, out: Path | None, out_type: str, source: str, allow_pickle: bool, lora: Path | None, pre: str | None,
    allow_token_mismatch: bool, force_toolchain: bool, force: bool, explain: bool,
) -> None:  # fmt: skip
    """Convert the checkpoint MODEL to one high-precision GGUF.

    \b
    Example:
        ggufkit convert ./Qwen2.5-0.5B --out gguf --type bf16
    """
    extras.require("convert", *(["lora"] if lora else []))
    with reporting() as reporter:
        checkpoint = sources.resolve(model, SourceOptions(source, allow_pickle), reporter)
        if isinstance(checkpoint, GgufFile):
            raise InputError(f"{model} is a GGUF already.", hint="Give the directory of a checkpoint.")
        where = out or options.beside_model(model)
        if lora is not None:
            checkpoint = merge(checkpoint, lora, reporter)
        refuse_inside(where, checkpoint)
        session = Session(
            toolchain.find("auto", reporter), step.Workspace(where), reporter, force=force, explain=explain
        )
        output = where / variants.file_name(checkpoint.name, variants.BY_NAME["plain"], out_type.upper())
        with session.workspace.locked():
            done = ConvertOptions(out_type, pre, allow_token_mismatch, force_toolchain)
            convert.convert(checkpoint, output, done, session)
    click.echo(output)


@click.command("imatrix")
@click.argument("gguf", type=options.FILE)
@click.option("--calibration", default="wikitext2-train", show_default=True, metavar="PATH|NAME", help="The text.")
@click.option("--calibration-field", default="text", show_default=True, metavar="NAME", help="In JSON and JSONL.")
@click.option(
    "--chunks",
    type=click.IntRange(1, options.MOST),
    default=128,
    show_default=True,
    help="Chunks of 512 tokens of it.",
)
@click.option("--out", type=options.PATH, help="Output directory.  [default: beside GGUF]")
@options.backend_options
@options.redo_options
def imatrix_command(
    gguf: Path, calibration: str, calibration_field: str, chunks: int, out: Path | None, **rest: Any
) -> None:
    """Compute the importance matrix of GGUF from calibration text.

    \b
    Example:
        ggufkit imatrix model-F16.gguf --calibration mytext.txt
    """
    base = sources.open_gguf(gguf)
    where = out or options.beside(gguf)
    sampling = ImatrixOptions(n_chunks=chunks, ngl=rest.pop("ngl"))
    with reporting() as reporter:
        text = calibration_text.resolve(calibration, calibration_field, reporter)
        session = _session(where, reporter, **rest)
        with session.workspace.locked():
            made = make_imatrix(base, text, where / f"{gguf.stem}.imatrix", sampling, session)
    click.echo(made.path)


def _session(where: Path, reporter: Reporter, backend: str = "auto", **more: Any) -> Session:
    return Session(toolchain.find(backend, reporter), step.Workspace(where), reporter, **more)


@click.command("quantize")
@click.argument("gguf", type=options.FILE)
@click.option(
    "--types", type=options.NAMES, required=True, metavar="LIST", help="Comma-separated, e.g. q4_k_m,q8_0."
)
@click.option("--out", type=options.PATH, help="Output directory.  [default: beside GGUF]")
@click.option("--allow-requantize", is_flag=True, help="Accept a file that is quantized already.")
@click.option("--imatrix", type=options.FILE, help="An importance matrix.")
@options.threads_option
@options.redo_options
def quantize_command(
    gguf: Path, types: tuple[str, ...], out: Path | None, allow_requantize: bool, imatrix: Path | None, **rest: Any
) -> None:  # fmt: skip
    """Quantize GGUF to one file per type.

    \b
    Example:
        ggufkit quantize model-F16.gguf --types q4_k_m,q8_0
    """
    base, header = sources.open_gguf(gguf), read_header(gguf)
    quantize.require_base(header, allow_requantize=allow_requantize)
    if imatrix is not None:
        require_fits(imatrix, header)
    variant = variants.BY_NAME["plain" if imatrix is None else "imatrix"]
    where, name = out or options.beside(gguf), sources.name_of(gguf)
    how = QuantizeOptions(imatrix, allow_requantize, variant.name, name)
    with reporting() as reporter:
        session = _session(where, reporter, **rest)
        kinds = quants.resolve(types, quantize.known_types(session.tools))
        with session.workspace.locked():
            for kind in kinds:
                output = where / variants.file_name(name, variant, kind.name)
                quantize.quantize(base, output, kind, how, session)
                click.echo(output)


@click.command("demo")
@click.option("--out", type=options.PATH, default="ggufkit-demo", show_default=True, help="Output directory.")
@options.redo_options
def demo_command(out: Path, force: bool, explain: bool) -> None:
    """Build and measure the small model that ships with ggufkit.

    The first thing to run on a new machine: it needs no network once llama.cpp is built.
    """
    from ggufkit import demo

    request = BuildRequest(
        str(demo.checkpoint()),
        out,
        ("q4_k_m", "q5_k_m", "q8_0"),
        corpus=str(demo.evaluation_text()),
        n_chunks=40,
        bench_reps=3,
        force=force,
        explain=explain,
    )
    with reporting() as reporter:
        result = build.build(request, reporter)
    _show_results(result, as_json=False)
    screen = console(stderr=False)
    screen.print("\nTry next:")
    screen.print(f"  ggufkit inspect {out}/{result.rows[-1].file}", soft_wrap=True)
    screen.print("  ggufkit build YOUR-CHECKPOINT --types q4_k_m,q8_0 --dry-run", soft_wrap=True)
    screen.print("  ggufkit build YOUR-CHECKPOINT --types q4_k_m,q8_0 --corpus YOUR-TEXT", soft_wrap=True)
