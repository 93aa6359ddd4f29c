"""Commands of one step each: convert, imatrix, quantize."""

from __future__ import annotations

from pathlib import Path

import click

from ggufkit.cli import options, parameter_types, request_options
from ggufkit.cli.terminal import emit_path, reporting
from ggufkit.core import extras, variants
from ggufkit.core.errors import InputError
from ggufkit.core.records import GgufFile
from ggufkit.llama import targets
from ggufkit.llama.gguf import read_header
from ggufkit.models import sources
from ggufkit.models.lora import merge
from ggufkit.pipeline.lookup import refuse_inside
from ggufkit.request import CalibrationOptions, RunOptions, Source
from ggufkit.steps import convert, quantize
from ggufkit.steps.convert import ConvertOptions
from ggufkit.steps.imatrix import ImatrixOptions, make_imatrix, name_missing, require_fits
from ggufkit.steps.quantize import QuantizeOptions
from ggufkit.texts import calibration_text

BESIDE = click.option("--out", type=parameter_types.PATH, help="Output directory.  [default: beside GGUF]")


@click.command("convert")
@click.argument("model")
@click.option("--out", type=parameter_types.PATH, help="Output directory.  [default: beside MODEL; from a hub: .]")
@request_options.conversion_options
@request_options.source_options
@request_options.redo_options
def convert_command(
    model: str, out: Path | None, conversion: ConvertOptions, source: Source, run: RunOptions
) -> None:
    """Convert the checkpoint MODEL to one high-precision GGUF.

    \b
    Example:
        ggufkit convert ./Qwen2.5-0.5B --out gguf --type bf16
    """
    extras.require("convert", *(["lora"] if source.lora else []))
    with reporting() as reporter:
        checkpoint = sources.resolve(model, source, reporter)
        if isinstance(checkpoint, GgufFile):
            raise InputError(f"{model} is a GGUF already.", hint="Give the directory of a checkpoint.")
        where = out or options.beside_model(model)
        if source.lora is not None:
            checkpoint = merge(checkpoint, source.lora, reporter)
        refuse_inside(where, checkpoint)
        session = run.session(where, reporter)
        plain = variants.BY_NAME["plain"]
        output = where / variants.file_name(checkpoint.name, plain, conversion.out_type.upper())
        with session.workspace.locked():
            convert.convert(checkpoint, output, conversion, session)
    emit_path(output)


@click.command("imatrix")
@click.argument("gguf", type=parameter_types.FILE)
@request_options.text_options
@BESIDE
@request_options.run_options
def imatrix_command(gguf: Path, calibration: CalibrationOptions, out: Path | None, run: RunOptions) -> None:
    """Compute the importance matrix of GGUF from calibration text.

    \b
    Example:
        ggufkit imatrix model-F16.gguf --calibration mytext.txt
    """
    base = sources.open_gguf(gguf)
    where = out or options.beside(gguf)
    with reporting() as reporter:
        text = calibration_text.resolve(calibration.text, calibration.field, reporter)
        session = run.session(where, reporter)
        sampling = ImatrixOptions(n_chunks=calibration.samples, ngl=run.ngl)
        with session.workspace.locked():
            made = make_imatrix(base, text, where / f"{gguf.stem}.imatrix", sampling, session)
    emit_path(made.path)


@click.command("quantize")
@click.argument("gguf", type=parameter_types.FILE)
@click.option(
    "--types",
    type=parameter_types.NAMES,
    required=True,
    metavar="LIST",
    help="Comma-separated, e.g. q4_k_m,q8_0.",
)
@BESIDE
@request_options.ALLOW_REQUANTIZE
@click.option("--imatrix", type=parameter_types.FILE, help="An importance matrix.")
@request_options.cpu_options
def quantize_command(
    gguf: Path, types: tuple[str, ...], out: Path | None, allow_requantize: bool, imatrix: Path | None, run: RunOptions
) -> None:  # fmt: skip
    """Quantize GGUF to one file per type.

    \b
    Example:
        ggufkit quantize model-F16.gguf --types q4_k_m,q8_0
    """
    base, header = sources.open_gguf(gguf), read_header(gguf)
    quantize.require_base(header, allow_requantize=allow_requantize)
    missing = require_fits(imatrix, header) if imatrix is not None else ()
    variant = variants.BY_NAME["plain" if imatrix is None else "imatrix"]
    where, name = out or options.beside(gguf), sources.name_of(gguf)
    how = QuantizeOptions(imatrix, allow_requantize, variant.name, name)
    with reporting() as reporter:
        name_missing(missing, reporter)
        session = run.session(where, reporter)
        kinds = targets.resolve(types, quantize.known_types(session.tools))
        for kind in kinds:
            quantize.require_matrix(session.tools, gguf, kind, how)
        with session.workspace.locked():
            for kind in kinds:
                output = where / variants.file_name(name, variant, kind.name)
                quantize.quantize(base, output, kind, how, session)
                emit_path(output)
