"""How the types of a file's tensors come about: by llama-quantize's own mix, as given, or measured for a target."""

from __future__ import annotations

import shutil
from pathlib import Path

from ggufkit.core.errors import UsageError
from ggufkit.core.hashing import sha256_file
from ggufkit.core.inputs import Input
from ggufkit.core.records import GgufFile, QuantType, Toolchain
from ggufkit.llama.gguf import read_header
from ggufkit.pipeline.foreseen import given, n_bytes, planned_bytes, types_of
from ggufkit.recipes.recipe_file import write_recipe
from ggufkit.recipes.type_recipe import Choice, TypeRecipe, recipe_path
from ggufkit.steps import quantize
from ggufkit.steps.quantize import QuantizeOptions
from ggufkit.steps.session import Session
from ggufkit.steps.step import Made, Recipe, Result

GIVEN, COPY, VERSION = "recipe-given", "recipe-copy", 1


def settle(
    base: GgufFile, kind: QuantType, output: Path, how: QuantizeOptions, session: Session
) -> QuantizeOptions:
    """How to quantize to a target, with the recipe of its types beside `output`, made before it.

    Raises:
        UsageError: its types are measured first.
    """
    if kind.target is None:
        return how
    if kind.target.is_measured:
        message = f"The types of {kind.name} are chosen by measurement."
        raise UsageError(message, hint="Make a recipe first, and give it with recipe:FILE.")
    settled = given(read_header(base.path), kind, how)
    _write_given(base, kind, recipe_path(output), settled, session)
    return settled


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
    params = quantize.params_of(kind, how).to_params()
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
