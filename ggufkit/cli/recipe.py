"""The command that chooses a type for each tensor."""

from __future__ import annotations

from pathlib import Path

import click

from ggufkit.cli import completion, parameter_types, request_options
from ggufkit.cli.options import grouped
from ggufkit.cli.parameter_types import of_kind
from ggufkit.cli.terminal import console, emit_path, reporting
from ggufkit.cli.types_table import types_table
from ggufkit.commands.recipe import Asked, how, recipe
from ggufkit.llama.gguf import read_header
from ggufkit.recipes.effort import EFFORTS
from ggufkit.recipes.options import RecipeOptions
from ggufkit.recipes.recipe_file import SUFFIX, read_recipe
from ggufkit.request import CalibrationOptions, RunOptions
from ggufkit.spellings import KINDS

asked_options = grouped(
    "asked",
    lambda given: Asked(**given),
    click.option("--target", metavar="TARGET", help="4.5bpw, 6GiB, like:q4_k_m or kld:0.02."),
    click.option(
        "--curve", is_flag=True, help="KL divergence against bytes over all sizes, as a table and a plot."
    ),
    click.option("--imatrix", type=parameter_types.FILE, help="An importance matrix.  [default: computed]"),
    click.option("--out", type=parameter_types.PATH, help="Output directory.  [default: beside GGUF]"),
    click.option("--for-gptq", metavar="MODEL",
                 help="The file will be refined: types for that, by the checkpoint that GGUF was converted from."),
    click.option("--include-output", is_flag=True, help="With --for-gptq: its output matrix, too."),
)  # fmt: skip


how_options = grouped(
    "how",
    lambda given: how(**given),
    click.option("--effort", type=click.Choice(list(EFFORTS)), default=RecipeOptions.effort, show_default=True,
                 help="How much is measured."),
    click.option("--types-allowed", type=parameter_types.NAMES, default=(), metavar="LIST",
                 shell_complete=completion.tensor_types,
                 show_default="what is fast on the backend", help="Tensor types to choose from, e.g. q3_k,q4_k,q6_k."),
    click.option("--at-least", multiple=True, metavar="PATTERN=TYPE",
                 help="The smallest type that some tensors may get, e.g. attn_v=q5_k."),
    click.option("--speed", type=of_kind(KINDS["speed"]), metavar="PERCENT",
                 help="Lose up to so much more for types that generate faster here, e.g. 5%."),
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
    with reporting() as reporter:
        made = recipe(gguf, asked, how, calibration, run, reporter)
    for path in made:
        if path.name.endswith(SUFFIX):
            console().print(types_table(read_recipe(path, read_header(gguf)).types))
        emit_path(path)
