"""Commands of one step each: convert, imatrix, quantize."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from ggufkit.cli import options, parameter_types, request_options
from ggufkit.cli.terminal import emit_path, reporting
from ggufkit.core import extras, variants
from ggufkit.core.errors import InputError, UsageError
from ggufkit.core.progress import Reporter
from ggufkit.core.records import GgufFile, QuantType
from ggufkit.llama import targets
from ggufkit.llama.gguf import read_header
from ggufkit.models import sources
from ggufkit.models.lora import merge
from ggufkit.pipeline import chosen
from ggufkit.pipeline.chosen import Means
from ggufkit.pipeline.foreseen import given, is_measured
from ggufkit.pipeline.lookup import refuse_inside
from ggufkit.pipeline.recipes import RecipeSources
from ggufkit.recipes.options import RecipeOptions
from ggufkit.request import CalibrationOptions, OverrideOptions, RunOptions, Source
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


@dataclass(frozen=True)
class _Wanted:
    """Which files are quantized from a GGUF, and with which importance matrix.

    Args:
        types: as they are typed; none where a recipe says all.
        recipe: a recipe of types, or what serves as one.
        calibration, calibration_field: the text that types are measured on, and where it is in JSON.
        effort, types_allowed: how they are measured.
    """

    types: tuple[str, ...] | None
    recipe: Path | None
    imatrix: Path | None
    allow_requantize: bool
    calibration: str | None
    calibration_field: str
    effort: str
    types_allowed: tuple[str, ...]

    @property
    def recipes(self) -> RecipeOptions:
        """How types are measured. Raises UnknownType."""
        return RecipeOptions(self.effort, self.types_allowed)

    @property
    def all_types(self) -> tuple[str, ...]:
        """With the recipe's. Raises UsageError where there are none."""
        found = (*(self.types or ()), *([f"recipe:{self.recipe}"] if self.recipe is not None else []))
        if not found:
            raise UsageError("Nothing to make is named.", hint="Give --types, e.g. q4_k_m,q8_0, or --recipe FILE.")
        return found


@click.command("quantize")
@click.argument("gguf", type=parameter_types.FILE)
@options.grouped(
    "wanted",
    lambda given: _Wanted(**given),
    click.option("--types", type=parameter_types.NAMES, metavar="LIST", help="Comma-separated, e.g. q4_k_m,q8_0."),
    click.option("--recipe", type=parameter_types.FILE,
                 help="A type for each tensor: a recipe, a GGUF to copy, or llama.cpp's list of patterns."),
    click.option("--imatrix", type=parameter_types.FILE, help="An importance matrix."),
    click.option("--calibration", metavar="PATH|NAME",
                 help="Text to measure types on, for 4.5bpw, 6GiB, like:q4_k_m, kld:0.02."),
    request_options.FIELD,
    *request_options.CHOOSING,
    request_options.ALLOW_REQUANTIZE,
)  # fmt: skip
@BESIDE
@request_options.override_options
@request_options.cpu_options
def quantize_command(
    gguf: Path, wanted: _Wanted, out: Path | None, overrides: OverrideOptions, run: RunOptions
) -> None:
    """Quantize GGUF to one file per type.

    \b
    Examples:
        ggufkit quantize model-F16.gguf --types q4_k_m,q8_0
        ggufkit quantize model-F16.gguf --types q4_k_m --tensor-type attn_v=q8_0
        ggufkit quantize model-F16.gguf --recipe model-4.50bpw.gguf.recipe.yaml
        ggufkit quantize model-F16.gguf --types 4.5bpw --calibration mytext.txt
    """
    types, told = wanted.all_types, overrides.resolve()
    base, header = sources.open_gguf(gguf), read_header(gguf)
    quantize.require_base(header, allow_requantize=wanted.allow_requantize)
    missing = require_fits(wanted.imatrix, header) if wanted.imatrix is not None else ()
    variant = variants.BY_NAME["plain" if wanted.imatrix is None else "imatrix"]
    where, name = out or options.beside(gguf), sources.name_of(gguf)
    plainly = QuantizeOptions(wanted.imatrix, wanted.allow_requantize, variant.name, name, told)
    with reporting() as reporter:
        name_missing(missing, reporter)
        session = run.session(where, reporter)
        kinds = targets.resolve(types, quantize.known_types(session.tools))
        material = _material(wanted, kinds, gguf, reporter)
        for kind in kinds:
            if not is_measured(kind):
                quantize.require_matrix(session.tools, gguf, kind, given(header, kind, plainly))
        with session.workspace.locked():
            for kind in kinds:
                output = where / variants.file_name(name, variant, kind.name)
                how = chosen.settle(base, kind, output, plainly, material, session)
                quantize.quantize(base, output, kind, how, session)
                emit_path(output)


def _material(wanted: _Wanted, kinds: Sequence[QuantType], base: Path, reporter: Reporter) -> Means | None:
    """What types are measured with; None where they are not.

    Raises:
        UsageError: the text for it is missing, or has no use.
        InputError: it cannot be read; or the model is an encoder, of which nothing is measured.
    """
    measured = [kind for kind in kinds if is_measured(kind)]
    if wanted.calibration is None:
        if measured:
            raise chosen.needs_text(measured[0])
        return None
    if not measured:
        message = "--calibration is not used: no type of these is chosen by measurement."
        raise UsageError(message, hint="Leave it out; an importance matrix is made with `ggufkit imatrix`.")
    chosen.require_measurable(base)
    text = calibration_text.resolve(wanted.calibration, wanted.calibration_field, reporter)
    return Means(RecipeSources(wanted.imatrix, text), wanted.recipes)
