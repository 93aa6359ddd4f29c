"""Commands of one step each: convert, imatrix, quantize, merge."""

from __future__ import annotations

from pathlib import Path

import click

from ggufkit.cli import completion, options, parameter_types, request_options
from ggufkit.cli.terminal import emit_path, reporting, say
from ggufkit.commands import steps
from ggufkit.commands.steps import Conversion, Quantization
from ggufkit.request import CalibrationOptions, OverrideOptions, RunOptions, Source
from ggufkit.steps.convert import ConvertOptions

BESIDE = click.option("--out", type=parameter_types.PATH, help="Output directory.  [default: beside GGUF]")


@click.command("convert")
@click.argument("model", shell_complete=completion.models)
@click.option("--out", type=parameter_types.PATH, help="Output directory.  [default: beside MODEL; from a hub: .]")
@request_options.conversion_options
@request_options.source_options
@request_options.redo_options
def convert_command(
    model: str, out: Path | None, conversion: ConvertOptions, source: Source, run: RunOptions
) -> None:
    """Convert the checkpoint MODEL to one high-precision GGUF.

    What reads images or sound becomes a second one, mmproj-NAME-F16.gguf.

    \b
    Example:
        ggufkit convert ./Qwen2.5-0.5B --out gguf --type bf16
    """
    with reporting() as reporter:
        made = steps.convert(Conversion(model, out), conversion, source, run, reporter)
    for result in made:
        emit_path(result.path)


@click.command("imatrix")
@click.argument("gguf", type=parameter_types.FILE)
@request_options.matrix_options
@BESIDE
@request_options.run_options
def imatrix_command(gguf: Path, calibration: CalibrationOptions, out: Path | None, run: RunOptions) -> None:
    """Compute the importance matrix of GGUF from calibration text.

    \b
    Example:
        ggufkit imatrix model-F16.gguf --calibration mytext.txt
    """
    with reporting() as reporter:
        made = steps.imatrix(gguf, calibration, out, run, reporter)
    emit_path(made.path)


@click.command("quantize")
@click.argument("gguf", type=parameter_types.FILE)
@options.grouped(
    "wanted",
    lambda given: Quantization(**given),
    click.option("--types", type=parameter_types.NAMES, metavar="LIST", shell_complete=completion.types,
                 help="Comma-separated, e.g. q4_k_m,q8_0."),
    click.option("--recipe", type=parameter_types.FILE,
                 help="A type for each tensor: a recipe, a GGUF to copy, or llama.cpp's list of patterns."),
    click.option("--imatrix", type=parameter_types.FILE, help="An importance matrix."),
    click.option("--calibration", multiple=True, metavar="PATH|NAME[:SHARE]", shell_complete=completion.texts,
                 help="Text to measure types on, for 4.5bpw, 6GiB, like:q4_k_m, kld:0.02."),
    request_options.FIELD,
    *request_options.CHOOSING,
    request_options.ALLOW_REQUANTIZE,
    request_options.SPLIT,
    BESIDE,
)  # fmt: skip
@request_options.override_options
@request_options.cpu_options
def quantize_command(gguf: Path, wanted: Quantization, overrides: OverrideOptions, run: RunOptions) -> None:
    """Quantize GGUF to one file per type.

    \b
    Examples:
        ggufkit quantize model-F16.gguf --types q4_k_m,q8_0
        ggufkit quantize model-F16.gguf --types q4_k_m --tensor-type attn_v=q8_0
        ggufkit quantize model-F16.gguf --recipe model-4.50bpw.gguf.recipe.yaml
        ggufkit quantize model-F16.gguf --types 4.5bpw --calibration mytext.txt
        ggufkit quantize model-F16.gguf --types q8_0 --split 50GB
    """
    with reporting() as reporter:
        steps.quantize(gguf, wanted, overrides, run, reporter, lambda made: emit_path(made.path))


@click.command("merge")
@click.argument("gguf", type=parameter_types.FILE)
@BESIDE
@request_options.redo_options
def merge_command(gguf: Path, out: Path | None, run: RunOptions) -> None:
    """Join the parts of a split GGUF, of which GGUF is any, to the file that they were; the parts stay.

    GGUF may also be what `cat` made of them: it is taken apart first.

    \b
    Examples:
        ggufkit merge model-Q8_0-00001-of-00003.gguf
        ggufkit merge joined.gguf --out whole
    """
    from ggufkit.commands import merge

    with reporting() as reporter:
        made = merge.merge(gguf, out, run, reporter)
    emit_path(made.path)
    say(f"sha256 {made.sha256}", err=True)
