"""How the types of a file's tensors come about: by llama-quantize's own mix, as given, or measured for a target."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from ggufkit.core import extras
from ggufkit.core.errors import UsageError
from ggufkit.core.hashing import sha256_file
from ggufkit.core.inputs import Input
from ggufkit.core.progress import OneOfMany, Reporter
from ggufkit.core.records import GgufFile, QuantType, Toolchain
from ggufkit.llama import evaluates
from ggufkit.llama.gguf import read_header
from ggufkit.pipeline.foreseen import given, is_measured, n_bytes, planned_bytes, types_of
from ggufkit.pipeline.recipes import RecipeSources, make_recipe
from ggufkit.recipes.options import RecipeOptions
from ggufkit.recipes.recipe_file import read_recipe, write_recipe
from ggufkit.recipes.type_recipe import Choice, TypeRecipe, recipe_path
from ggufkit.steps import quantize
from ggufkit.steps.quantize import QuantizeOptions
from ggufkit.steps.session import Session
from ggufkit.steps.step import Made, Recipe, Result

_VAIN, _WITHOUT = "KL divergence cannot be measured of it", "Name types of llama-quantize, a recipe or a GGUF."
"""What is said of encoders."""
_SHA256 = re.compile(r"[0-9a-f]{64}")
GIVEN, COPY, VERSION = "recipe-given", "recipe-copy", 1


@dataclass(frozen=True)
class Means:
    """What types are measured with, and how; whether the matrix weighs the rounding is the file's own matter."""

    sources: RecipeSources
    options: RecipeOptions


def settle(
    base: GgufFile, kind: QuantType, output: Path, how: QuantizeOptions, means: Means | None, session: Session
) -> QuantizeOptions:
    """How to quantize to a target, with the recipe of its types beside `output`, made before it.

    Args:
        means: to measure types; None where they are given.

    Raises:
        UsageError: no types meet the target, and the nearest that can be had is named; or the means are missing.
    """
    if kind.target is None:
        return how
    header, file = read_header(base.path), recipe_path(output)
    if not is_measured(kind):
        settled = given(header, kind, how)
        warn_of_another_base(settled.recipe, base, session.reporter)
        _write_given(base, kind, file, settled, session)
        return settled
    if means is None:
        raise needs_text(kind)
    options = replace(means.options, weigh=how.imatrix is not None)
    made = make_recipe(base, kind.target, means.sources, file, options, session)
    return replace(how, recipe=read_recipe(made.path, header))


def warn_of_another_base(recipe: TypeRecipe | None, base: GgufFile, reporter: Reporter) -> None:
    """A recipe fits every model with tensors of its names; what was measured for it holds for one."""
    name, _, digest = ("" if recipe is None else recipe.measured_on.get("base", "")).rpartition(" ")
    if recipe is not None and _SHA256.fullmatch(digest) and digest != base.sha256:
        said = f"The types of {recipe.target or 'the recipe'} were measured on {name or 'another file'}, not on {{}}: "
        reporter.warn(OneOfMany(said + "there they may lose more than others.", base.path.name))


def needs_text(kind: QuantType) -> UsageError:
    """The error for a type that is measured, where there is no text to measure on."""
    message = f"The types of {kind.name} are chosen by measurement, on calibration text."
    return UsageError(message, hint="Give a text with --calibration: like the use, unlike what is evaluated.")


def require_measurable(base: Path, name: str | None = None) -> None:
    """Raise what is missing for measuring types: packages, or a model that predicts tokens.

    Args:
        name: what the model is called, instead of its path.
    """
    extras.require("recipe")
    evaluates.require_generates(base, _VAIN, _WITHOUT, name=name)


def copy_recipe(rounded: Path, refined: Path, session: Session) -> Result:
    """The recipe of a file beside the refined one, whose tensors have the same types."""
    source = recipe_path(rounded)
    read = Input(source, sha256_file(source))

    def copy(partial: Path) -> Made:
        shutil.copyfile(source, partial)
        return Made()

    recipe = Recipe(COPY, VERSION, {"recipe": read.sha256}, reads=(read,))
    return session.ensure(recipe, recipe_path(refined), copy)


def _write_given(base: GgufFile, kind: QuantType, file: Path, how: QuantizeOptions, session: Session) -> Result:
    """Write down which type each tensor gets, where a recipe or a user says it of some of them."""
    read = base.as_input()
    params = quantize.params_of(kind, how, read_header(base.path)).to_params()
    recipe = Recipe(GIVEN, VERSION, {"base": read.sha256}, params, session.tools.identity, (read,))

    def write(partial: Path) -> Made:
        write_recipe(_as_recipe(session.tools, base.path, kind, how), partial)
        return Made()

    return session.ensure(recipe, file, write)


def _as_recipe(tools: Toolchain, base: Path, kind: QuantType, how: QuantizeOptions) -> TypeRecipe:
    header, planned = read_header(base), quantize.plan(tools, base, kind, how)
    spec, preset = kind.target.spec if kind.target else "", quantize.file_type(tools, base, kind, how)
    usual = {} if how.recipe is not None else types_of(quantize.plan(tools, base, QuantType(preset, "")))
    choices = [
        Choice(t.name, t.after, n_bytes(t), why=f"as in {preset}" if usual.get(t.name) == t.after else spec)
        for t in planned.tensors
        if len(t.shape) > 1
    ]
    return TypeRecipe(tuple(choices), preset, spec, planned_bytes(header, planned))
