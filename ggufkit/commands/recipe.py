"""The command that chooses a type for each tensor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ggufkit.commands.places import beside, drawn, floats_of
from ggufkit.core import extras
from ggufkit.core.errors import UsageError
from ggufkit.core.part_names import stem_of
from ggufkit.core.progress import Reporter
from ggufkit.core.records import GgufFile, Target
from ggufkit.llama import patterns, quants, targets
from ggufkit.llama.gguf import read_header
from ggufkit.modelfile import chat_texts
from ggufkit.models import sources
from ggufkit.pipeline.recipe_engine import RecipeSources
from ggufkit.pipeline.refined_probes import Refining
from ggufkit.recipes.options import RecipeOptions
from ggufkit.request import CalibrationOptions, RunOptions, Source
from ggufkit.steps import quantize
from ggufkit.steps.imatrix import ImatrixOptions, make_imatrix, name_missing, require_fits
from ggufkit.steps.session import Session
from ggufkit.texts import calibration_text
from ggufkit.texts.corpus import Corpus


@dataclass(frozen=True)
class Asked:
    """What is asked for: the recipe of a target, the curve of all sizes, or both; and where they go.

    Args:
        for_gptq: the checkpoint that the GGUF was converted from, if the file will be refined; None if not.
        include_output: and so will its output matrix.
    """

    target: str | None = None
    curve: bool = False
    imatrix: Path | None = None
    out: Path | None = None
    for_gptq: str | None = None
    include_output: bool = False


def how(
    effort: str,
    types_allowed: Sequence[str],
    at_least: Sequence[str],
    speed: float | None,
) -> RecipeOptions:
    """How types are measured, from what was typed. Raises UsageError, UnknownType."""
    allowed = tuple(quants.tensor_type(name) for name in types_allowed)
    floors = tuple(patterns.pair(word, "--at-least") for word in at_least)
    return RecipeOptions(effort, allowed, floors, speed=speed or 0.0)


def recipe(
    gguf: Path,
    asked: Asked,
    how: RecipeOptions,
    calibration: CalibrationOptions,
    run: RunOptions,
    reporter: Reporter,
) -> list[Path]:
    """The types that the tensors of a GGUF should get: the recipe, the curve's table and its plot. Raises GgufkitError."""
    extras.require("recipe")
    if asked.target is None and not asked.curve:
        raise UsageError("Nothing is asked for.", hint="Give --target, e.g. like:q4_k_m, or --curve.")
    base, header = sources.open_gguf(gguf), read_header(gguf)
    quantize.require_base(header)
    missing = require_fits(asked.imatrix, header) if asked.imatrix is not None else ()
    where = asked.out or beside(gguf)
    name_missing(missing, reporter)
    parts = calibration_text.resolve(calibration.text, calibration.field, reporter)
    text = chat_texts.calibration(parts, base, reporter)
    session = run.session(where, reporter)
    target = _target(asked.target, session)
    with session.workspace.locked():
        sampling = ImatrixOptions(n_chunks=calibration.samples, ngl=run.ngl)
        matrix = asked.imatrix or _matrix(base, text, where, sampling, session)
        material = RecipeSources(matrix, text, _refining(asked, text, calibration, reporter))
        made = [_recipe(base, target, material, where, how, session)] if target is not None else []
        return made + (_curve(base, material, where, how, session) if asked.curve else [])


def _refining(asked: Asked, text: Corpus, how: CalibrationOptions, reporter: Reporter) -> Refining | None:
    """What the file will be refined with, if it will be. Raises GgufkitError."""
    if asked.for_gptq is None:
        return None
    extras.require("refine")
    checkpoint = floats_of(asked.for_gptq, Source(), reporter, "Give the checkpoint that it was converted from.")
    return Refining(checkpoint, drawn(checkpoint, text, how), asked.include_output)


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


def _matrix(base: GgufFile, text: Corpus, where: Path, how: ImatrixOptions, session: Session) -> Path:
    return make_imatrix(base, text, where / f"{stem_of(base.path)}.imatrix", how, session).path


def _recipe(
    base: GgufFile, target: Target, material: RecipeSources, where: Path, how: RecipeOptions, session: Session
) -> Path:
    from ggufkit.pipeline.recipes import make_recipe

    output = where / f"{sources.name_of(base.path)}-{target.label}.recipe.yaml"
    return make_recipe(base, target, material, output, how, session).path


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
