"""Functions that make files: build and its plan, convert, imatrix, quantize."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ggufkit.api import options
from ggufkit.api.call import Options, listening
from ggufkit.api.options import Names, Path_
from ggufkit.api.result import Result
from ggufkit.commands import lora as adapters
from ggufkit.commands import merge as merging
from ggufkit.commands import steps
from ggufkit.commands.steps import Conversion, Quantization
from ggufkit.core import values
from ggufkit.core.progress import Reporter
from ggufkit.pipeline import build as building
from ggufkit.pipeline import plan as planning
from ggufkit.pipeline.resources import Plan
from ggufkit.request import (
    DEFAULT_TYPES,
    DEFAULT_VARIANTS,
    BuildRequest,
    CalibrationOptions,
    OverrideOptions,
    Source,
)
from ggufkit.steps import mmproj
from ggufkit.steps.convert import ConvertOptions
from ggufkit.steps.lora import OUT_TYPES, LoraOptions
from ggufkit.steps.step import Result as Made
from ggufkit.steps.step import Workspace

if TYPE_CHECKING:
    from typing_extensions import Unpack


def build(
    model: Path_ | BuildRequest,
    reporter: Reporter | None = None,
    *,
    types: Names = DEFAULT_TYPES,
    variants: Names = DEFAULT_VARIANTS,
    out: Path_ | None = None,
    quiet: bool = False,
    **more: Unpack[options.BuildOptions],
) -> Result:
    """Convert, quantize, measure and report a model, as `ggufkit build` does; what is there already is kept.

        >>> made = build("tiny-llama-F16.gguf", types="q4_0,q8_0", corpus="text.txt", chunks=2, out="built", bench=False)
        >>> [path.name for path in made.paths]
        ['tiny-llama-F16.gguf', 'tiny-llama-Q8_0.gguf', 'tiny-llama-Q4_0.gguf']
        >>> made.df[["type", "variant", "bpw"]].shape
        (3, 3)

    Args:
        model: alias, hub id, checkpoint directory or .gguf file; or a whole request.
        reporter: who is told of progress; by default it is shown in a terminal and in a notebook.
        types, variants: as on the command line, `"q4_k_m,6GiB"`, or a sequence.
        out: the output directory, default `./<name>`.
        quiet: show nothing.
        more: every other option of `ggufkit build`, see `BuildOptions`.

    Raises:
        UsageError: a value is none of its option's, or options contradict each other.
        GgufkitError: of the kind that tells what went wrong; what was finished stays.
    """
    wanted = _request("build", model, types, variants, out, more)
    with listening(reporter, quiet) as listener:
        done = building.build(wanted, listener)
    paths = tuple(done.out / row.file for row in done.rows)
    return Result(done.out, paths, done.rows, listener.warnings, done.made, done.mmproj)


def plan(
    model: Path_ | BuildRequest,
    reporter: Reporter | None = None,
    *,
    types: Names = DEFAULT_TYPES,
    variants: Names = DEFAULT_VARIANTS,
    out: Path_ | None = None,
    quiet: bool = False,
    **more: Unpack[options.BuildOptions],
) -> Plan:
    """What `build` would make of the same arguments, and what of this machine it needs; nothing is written.

        >>> coming = plan("tiny-llama-F16.gguf", types="q4_0", corpus="text.txt", out="planned")
        >>> coming.files[0].file, coming.files[0].n_fallback
        ('tiny-llama-Q4_0.gguf', 0)

    Raises:
        GgufkitError: as `build`.
    """
    wanted = _request("plan", model, types, variants, out, more)
    with listening(reporter, quiet) as listener:
        return planning.plan(wanted, listener)


def _request(
    function: str,
    model: Path_ | BuildRequest,
    types: Names,
    variants: Names,
    out: Path_ | None,
    more: options.BuildOptions,
) -> BuildRequest:
    if not isinstance(model, BuildRequest):
        given = Options(function, options.BuildOptions, more).given
        return BuildRequest(
            values.TEXT.read(model), values.PATH.read(out) if out else None, types, variants, **given
        )
    if more or out or (types, variants) != (DEFAULT_TYPES, DEFAULT_VARIANTS):
        raise TypeError(f"{function}() takes a request or options, not both.")
    return model


def convert(
    model: Path_,
    type: str = "f16",  # noqa: A002 - the command line's name
    *,
    out: Path_ | None = None,
    reporter: Reporter | None = None,
    quiet: bool = False,
    **more: Unpack[options.ConvertOptions],
) -> Result:
    """Convert a checkpoint to one high-precision GGUF, as `ggufkit convert` does.

        >>> convert("tiny-llama", "bf16", out="converted").path.name
        'tiny-llama-BF16.gguf'

    Args:
        model: alias, hub id or checkpoint directory.
        type: "f16", "bf16" or "f32".
        out: the output directory, default beside the model.
        more: every other option, see `ConvertOptions`.

    Raises:
        GgufkitError: of the kind that tells what went wrong.
    """
    given = Options("convert", options.ConvertOptions, more)
    wanted = Conversion(values.read("model", values.TEXT, model), _path("out", out))
    how, source = given.group(ConvertOptions, base_type=type), given.group(Source)
    with listening(reporter, quiet) as listener:
        made = steps.convert(wanted, how, source, given.run, listener)
    return of_files(made, listener.warnings)


def imatrix(
    gguf: Path_,
    *,
    out: Path_ | None = None,
    reporter: Reporter | None = None,
    quiet: bool = False,
    **more: Unpack[options.ImatrixOptions],
) -> Result:
    """Compute the importance matrix of a GGUF from calibration text, as `ggufkit imatrix` does.

        >>> imatrix("tiny-llama-F16.gguf", calibration="text.txt", calibration_samples=2).path.name
        'tiny-llama-F16.imatrix'

    Args:
        gguf: the file.
        out: the output directory, default beside it.
        more: every other option, see `ImatrixOptions`.

    Raises:
        GgufkitError: of the kind that tells what went wrong.
    """
    given = Options("imatrix", options.ImatrixOptions, more)
    file, text = values.read("gguf", values.FILE, gguf), given.group(CalibrationOptions)
    with listening(reporter, quiet) as listener:
        made = steps.imatrix(file, text, _path("out", out), given.run, listener)
    return of_files([made], listener.warnings)


def quantize(
    gguf: Path_,
    types: Names | None = None,
    *,
    out: Path_ | None = None,
    reporter: Reporter | None = None,
    quiet: bool = False,
    **more: Unpack[options.QuantizeOptions],
) -> Result:
    """Quantize a GGUF to one file per type, as `ggufkit quantize` does.

        >>> made = quantize("tiny-llama-F16.gguf", "q4_0,q8_0", tensor_type="attn_v=q8_0")
        >>> [path.name for path in made.paths]
        ['tiny-llama-Q4_0.gguf', 'tiny-llama-Q8_0.gguf']

    Args:
        gguf: the file, in F16, BF16 or F32.
        types: as on the command line, or a sequence; none where `recipe` says all.
        out: the output directory, default beside it.
        more: every other option, see `QuantizeOptions`.

    Raises:
        GgufkitError: of the kind that tells what went wrong.
    """
    given = Options("quantize", options.QuantizeOptions, more)
    named = {name: value for name, value in (("types", types), ("out", out)) if value is not None}
    wanted = given.group(Quantization, **named)
    file, told = values.read("gguf", values.FILE, gguf), given.group(OverrideOptions)
    with listening(reporter, quiet) as listener:
        made = steps.quantize(file, wanted, told, given.run, listener)
    return of_files(made, listener.warnings)


def merge(
    gguf: Path_,
    *,
    out: Path_ | None = None,
    reporter: Reporter | None = None,
    quiet: bool = False,
    **more: Unpack[options.RedoOptions],
) -> Result:
    """Join the parts of a GGUF to the file that they were, as `ggufkit merge` does.

        >>> parts = quantize("tiny-llama-F16.gguf", "q8_0", split="300KB", out="split")
        >>> merge(parts.path, out="merged").path.name
        'tiny-llama-Q8_0.gguf'

    Args:
        gguf: one of the parts.
        out: the output directory, default beside it.
        more: every other option, see `RedoOptions`.

    Raises:
        GgufkitError: of the kind that tells what went wrong.
    """
    given = Options("merge", options.RedoOptions, more)
    file = values.read("gguf", values.FILE, gguf)
    with listening(reporter, quiet) as listener:
        made = merging.merge(file, _path("out", out), given.run, listener)
    return of_files([made], listener.warnings)


def lora(
    adapter: Path_,
    base: Path_,
    outtype: str = LoraOptions.out_type,
    *,
    out: Path_ | None = None,
    reporter: Reporter | None = None,
    quiet: bool = False,
    **more: Unpack[options.LoraOptions],
) -> Result:
    """Convert a LoRA adapter of peft's to a GGUF adapter, as `ggufkit lora` does.

        >>> lora("my-adapter", "tiny-llama").path.name  # doctest: +SKIP
        'tiny-llama-my-adapter-lora-F32.gguf'

    Args:
        adapter: the directory that peft wrote.
        base: the checkpoint that it was trained on: alias, hub id or directory.
        outtype: "f32", "f16", "bf16", "q8_0", or "auto".
        out: the output directory, default beside the adapter.
        more: every other option, see `LoraOptions`.

    Raises:
        GgufkitError: of the kind that tells what went wrong.
    """
    given = Options("lora", options.LoraOptions, more)
    home = values.read("adapter", values.DIRECTORY, adapter)
    wanted = adapters.Wanted(home, values.read("base", values.TEXT, base), _path("out", out))
    how = LoraOptions(
        values.read("outtype", values.Choice(OUT_TYPES), outtype),
        given.read("check_function"),
        given.read("force_toolchain", LoraOptions.force_toolchain),
    )
    with listening(reporter, quiet) as listener:
        made = adapters.lora(wanted, how, given.run, listener)
    return Result(made.path.parent, (made.path,), (), tuple(listener.warnings), int(not made.fresh))


def _path(name: str, given: Path_ | None) -> Path | None:
    return None if given is None else values.read(name, values.PATH, given)


def of_files(made: Sequence[Made], warnings: Iterable[str]) -> Result:
    """The result of steps that make files."""
    from ggufkit.report.results import rows_of

    beside = next((one.path for one in made if one.manifest.step == mmproj.STEP), None)
    paths = tuple(one.path for one in made if one.path != beside)
    ggufs = [path for path in paths if path.suffix == ".gguf"]
    rows = tuple(rows_of(ggufs, Workspace(paths[0].parent)))
    return Result(paths[0].parent, paths, rows, tuple(warnings), sum(not one.fresh for one in made), beside)
