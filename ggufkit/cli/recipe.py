"""The command that chooses a type for each tensor."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from ggufkit.cli import options, parameter_types, request_options
from ggufkit.cli.options import grouped
from ggufkit.cli.terminal import console, emit_path, reporting
from ggufkit.cli.types_table import types_table
from ggufkit.core import extras
from ggufkit.core.errors import UsageError
from ggufkit.core.records import GgufFile, Target
from ggufkit.llama import patterns, quants, targets
from ggufkit.llama.gguf import read_header
from ggufkit.models import sources
from ggufkit.pipeline.recipe_engine import RecipeSources
from ggufkit.recipes.effort import EFFORTS
from ggufkit.recipes.options import RecipeOptions
from ggufkit.recipes.recipe_file import read_recipe
from ggufkit.request import CalibrationOptions, RunOptions
from ggufkit.steps import quantize
from ggufkit.steps.imatrix import ImatrixOptions, make_imatrix, name_missing, require_fits
from ggufkit.steps.session import Session
from ggufkit.texts import calibration_text


@dataclass(frozen=True)
class Asked:
    """What is asked for: the recipe of a target, the curve of all sizes, or both; and where they go."""

    target: str | None
    curve: bool
    imatrix: Path | None
    out: Path | None


asked_options = grouped(
    "asked",
    lambda given: Asked(**given),
    click.option("--target", metavar="TARGET", help="4.5bpw, 6GiB, like:q4_k_m or kld:0.02."),
    click.option(
        "--curve", is_flag=True, help="KL divergence against bytes over all sizes, as a table and a plot."
    ),
    click.option("--imatrix", type=parameter_types.FILE, help="An importance matrix.  [default: computed]"),
    click.option("--out", type=parameter_types.PATH, help="Output directory.  [default: beside GGUF]"),
)


def _how(given: dict[str, Any]) -> RecipeOptions:
    allowed = tuple(quants.tensor_type(name) for name in given["types_allowed"])
    floors = tuple(patterns.pair(word, "--at-least") for word in given["at_least"])
    return RecipeOptions(given["effort"], allowed, floors, refined=given["for_gptq"])


how_options = grouped(
    "how",
    _how,
    click.option("--effort", type=click.Choice(list(EFFORTS)), default=RecipeOptions.effort, show_default=True,
                 help="How much is measured."),
    click.option("--for-gptq", is_flag=True, help="The file will be refined afterwards."),
    click.option("--types-allowed", type=parameter_types.NAMES, default=(), metavar="LIST",
                 show_default="what is fast on the backend", help="Tensor types to choose from, e.g. q3_k,q4_k,q6_k."),
    click.option("--at-least", multiple=True, metavar="PATTERN=TYPE",
                 help="The smallest type that some tensors may get, e.g. attn_v=q5_k."),
)  # fmt: skip


@click.command("recipe")
@click.argument("gguf", type=parameter_types.FILE)
@asked_options
@how_options
@request_options.text_options
@request_options.run_options
def recipe_command(
    gguf: Path, asked: Asked, how: RecipeOptions, calibration: CalibrationOptions, run: RunOptions
) -> None:
    """Choose which type each tensor of GGUF should get, for so many bytes.

    How much each tensor matters is measured on calibration text. The result is a file for `quantize --recipe`.

    \b
    Example:
        ggufkit recipe model-F16.gguf --target like:q4_k_m --imatrix model.imatrix
    """
    extras.require("recipe")
    if asked.target is None and not asked.curve:
        raise UsageError("Nothing is asked for.", hint="Give --target, e.g. like:q4_k_m, or --curve.")
    base, header = sources.open_gguf(gguf), read_header(gguf)
    quantize.require_base(header)
    missing = require_fits(asked.imatrix, header) if asked.imatrix is not None else ()
    where = asked.out or options.beside(gguf)
    with reporting() as reporter:
        name_missing(missing, reporter)
        text = calibration_text.resolve(calibration.text, calibration.field, reporter)
        session = run.session(where, reporter)
        target = _target(asked.target, session)
        with session.workspace.locked():
            matrix = asked.imatrix or _matrix(base, calibration, where, run.ngl, session)
            material = RecipeSources(matrix, text)
            made = [_recipe(base, target, material, where, how, session)] if target is not None else []
            made += _curve(base, material, where, how, session) if asked.curve else []
    for path in made:
        emit_path(path)


def _target(said: str | None, session: Session) -> Target | None:
    """What is asked for, as a target of bytes or of divergence. Raises UsageError."""
    if said is None:
        return None
    (kind,) = targets.resolve([said], quantize.known_types(session.tools))
    if kind.target is None:
        raise UsageError(
            f"{said} is a type already.", hint=f"Ask for the best types of its bytes: like:{said.lower()}."
        )
    if not kind.target.is_measured:
        raise UsageError(f"{said} needs no measurement.", hint="Give it to `ggufkit quantize --types`.")
    return kind.target


def _matrix(base: GgufFile, how: CalibrationOptions, where: Path, ngl: int | None, session: Session) -> Path:
    text = calibration_text.resolve(how.text, how.field, session.reporter)
    options_ = ImatrixOptions(n_chunks=how.samples, ngl=ngl)
    return make_imatrix(base, text, where / f"{base.path.stem}.imatrix", options_, session).path


def _recipe(
    base: GgufFile, target: Target, material: RecipeSources, where: Path, how: RecipeOptions, session: Session
) -> Path:
    from ggufkit.pipeline.recipes import make_recipe

    output = where / f"{sources.name_of(base.path)}-{target.label}.recipe.yaml"
    made = make_recipe(base, target, material, output, how, session)
    console().print(types_table(read_recipe(made.path, read_header(base.path)).types))
    return made.path


def _curve(
    base: GgufFile, material: RecipeSources, where: Path, how: RecipeOptions, session: Session
) -> list[Path]:
    from ggufkit.pipeline.recipe_curve import curve
    from ggufkit.report import curve_plot

    found, stem = curve(base, material, how, session), where / f"{sources.name_of(base.path)}.curve"
    table, plot = stem.with_name(stem.name + ".csv"), stem.with_name(stem.name + ".svg")
    table.write_text(found.to_csv(), encoding="utf-8")
    curve_plot.save(found, plot)
    return [table, plot]
