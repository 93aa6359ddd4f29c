"""Functions that calibrate weights, or choose their types: awq, refine, recipe."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ggufkit.api import options
from ggufkit.api.call import Options, listening
from ggufkit.api.making import of_files
from ggufkit.api.options import Names, Path_
from ggufkit.api.result import Result
from ggufkit.commands import engines
from ggufkit.commands import recipe as choosing
from ggufkit.commands.engines import AwqTarget, RefineFiles
from ggufkit.commands.recipe import Asked
from ggufkit.core import values
from ggufkit.core.progress import Reporter
from ggufkit.recipes.options import RecipeOptions
from ggufkit.refine.options import RefineOptions
from ggufkit.request import CalibrationOptions, Source, group_of
from ggufkit.steps.awq import ScalingOptions

if TYPE_CHECKING:
    from typing_extensions import Unpack


def awq(
    model: Path_,
    types: Names = "q4_k_m",
    *,
    out: Path_ | None = None,
    reporter: Reporter | None = None,
    quiet: bool = False,
    **more: Unpack[options.AwqOptions],
) -> Result:
    """Fold AWQ scales into a checkpoint, whose function stays as it is, as `ggufkit awq` does.

        >>> made = awq("tiny-llama", "q4_0", out="scaled", calibration="text.txt", calibration_samples=2)
        >>> (made.path / "config.json").is_file()
        True

    Args:
        model: alias, hub id or checkpoint directory.
        types: what it will be quantized to.
        out: the directory of the scaled checkpoint, default `<MODEL>-awq`.
        more: every other option, see `AwqOptions`.

    Raises:
        GgufkitError: of the kind that tells what went wrong.
    """
    given = Options("awq", options.AwqOptions, more)
    target = group_of(
        AwqTarget,
        {"model": model, "types": types, "for_imatrix": given.read("for_imatrix", False)}
        | ({} if out is None else {"out": out}),
    )
    text, how, source = given.group(CalibrationOptions), given.group(ScalingOptions), given.group(Source)
    with listening(reporter, quiet) as listener:
        made = engines.awq(target, text, how, source, given.run, listener)
    return of_files(made, listener.warnings)


def refine(
    quantized: Path_,
    base: Path_,
    model: Path_,
    *,
    out: Path_ | None = None,
    reporter: Reporter | None = None,
    quiet: bool = False,
    **more: Unpack[options.RefineOptions],
) -> Result:
    """Round the weights of a quantized GGUF again, by GPTQ, as `ggufkit refine` does: same bytes, less loss.

        >>> rounded = "quantized/tiny-llama-Q4_0.gguf"
        >>> made = refine(rounded, "tiny-llama-F16.gguf", "tiny-llama", calibration="text.txt", calibration_samples=2)
        >>> made.path.name, made.df["variant"][0]
        ('tiny-llama-gptq-Q4_0.gguf', 'gptq')

    Args:
        quantized: the file.
        base: the F16, BF16 or F32 GGUF that it was made from.
        model: the checkpoint that the base was converted from.
        out: the refined file, default beside the quantized one.
        more: every other option, see `RefineOptions`.

    Raises:
        GgufkitError: of the kind that tells what went wrong.
    """
    given = Options("refine", options.RefineOptions, more)
    named = {"quantized": quantized, "base": base, "model": model} | ({} if out is None else {"out": out})
    files, text = group_of(RefineFiles, named), given.group(CalibrationOptions)
    with listening(reporter, quiet) as listener:
        made = engines.refine(files, text, given.group(RefineOptions), given.run, listener)
    return of_files([made], listener.warnings)


def recipe(
    gguf: Path_,
    target: str | None = None,
    *,
    out: Path_ | None = None,
    reporter: Reporter | None = None,
    quiet: bool = False,
    **more: Unpack[options.RecipeOptions],
) -> Result:
    """Choose which type each tensor of a GGUF should get, for so many bytes, as `ggufkit recipe` does.

        >>> how = {"calibration": "text.txt", "calibration_samples": 2, "effort": "quick"}
        >>> recipe("tiny-llama-F16.gguf", "7bpw", types_allowed="q4_0,q8_0", **how).path.name
        'tiny-llama-7.00bpw.recipe.yaml'

    Args:
        gguf: the file, in F16, BF16 or F32.
        target: "4.5bpw", "6GiB", "like:q4_k_m" or "kld:0.02"; none for the curve alone.
        out: the output directory, default beside it.
        more: every other option, see `RecipeOptions`; with `curve=True` its table and plot are made, too.

    Raises:
        GgufkitError: of the kind that tells what went wrong.
    """
    given = Options("recipe", options.RecipeOptions, more)
    named = {"target": target, "out": out, "curve": given.read("curve"), "imatrix": given.read("imatrix"),
             "for_gptq": given.read("for_gptq"), "include_output": given.read("include_output")}  # fmt: skip
    asked = group_of(Asked, {name: value for name, value in named.items() if value is not None})
    how, text = _choice(given), given.group(CalibrationOptions)
    file = values.read("gguf", values.FILE, gguf)
    with listening(reporter, quiet) as listener:
        paths = tuple(choosing.recipe(file, asked, how, text, given.run, listener))
    return Result(paths[0].parent, paths, (), listener.warnings, len(paths))


def _choice(given: Options) -> RecipeOptions:
    """How types are measured."""
    return choosing.how(
        given.read("effort", RecipeOptions.effort),
        given.read("types_allowed", ()),
        given.read("at_least", ()),
        given.read("speed"),
    )
