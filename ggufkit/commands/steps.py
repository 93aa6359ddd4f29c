"""Commands of one step each: convert, imatrix, quantize."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ggufkit.commands.places import beside, beside_model, checkpoint_of
from ggufkit.core import extras, variants
from ggufkit.core.errors import UsageError
from ggufkit.core.part_names import stem_of
from ggufkit.core.progress import Reporter
from ggufkit.core.records import GgufFile, QuantType
from ggufkit.llama import targets
from ggufkit.llama.gguf import GgufHeader, read_header
from ggufkit.modelfile import chat_texts
from ggufkit.models import dequantized, sources
from ggufkit.pipeline import chosen, overridden, senses
from ggufkit.pipeline.chosen import Means
from ggufkit.pipeline.foreseen import given, is_measured, n_bytes
from ggufkit.pipeline.lookup import refuse_inside
from ggufkit.pipeline.recipes import RecipeSources
from ggufkit.recipes.options import RecipeOptions
from ggufkit.request import CalibrationOptions, OverrideOptions, RunOptions, Source
from ggufkit.steps import division
from ggufkit.steps import quantize as quantizing
from ggufkit.steps.convert import ConvertOptions
from ggufkit.steps.convert import convert as convert_step
from ggufkit.steps.imatrix import ImatrixOptions, make_imatrix, name_missing, require_fits
from ggufkit.steps.quantize import QuantizeOptions
from ggufkit.steps.session import Session
from ggufkit.steps.step import Result
from ggufkit.steps.tensor_types import refuse_floats_of_carried
from ggufkit.texts import calibration_text


@dataclass(frozen=True)
class Conversion:
    """What is converted, and where to: by default beside the model."""

    model: str
    out: Path | None = None


def convert(
    wanted: Conversion, conversion: ConvertOptions, source: Source, run: RunOptions, reporter: Reporter
) -> list[Result]:
    """A checkpoint -> one high-precision GGUF, and another of what reads images or sound where there is such.

    Raises GgufkitError.
    """
    extras.require("convert", *(["lora"] if source.lora else []))
    found = checkpoint_of(wanted.model, source, reporter, "Give the directory of a checkpoint.")
    checkpoint = dequantized.readable(found, reporter)
    where = wanted.out or beside_model(wanted.model)
    refuse_inside(where, checkpoint)
    session = run.session(where, reporter)
    plain = variants.BY_NAME["plain"]
    output = where / variants.file_name(checkpoint.name, plain, conversion.out_type.upper())
    part = senses.part_of(checkpoint, checkpoint.name, conversion, session)
    with session.workspace.locked():
        made = convert_step(checkpoint, output, conversion, session)
        beside = None if part is None else part.make(made.path, session)
        return [made] if beside is None else [made, beside]


def imatrix(
    gguf: Path, calibration: CalibrationOptions, out: Path | None, run: RunOptions, reporter: Reporter
) -> Result:
    """The importance matrix of a GGUF from a text. Raises GgufkitError."""
    base = sources.open_gguf(gguf)
    where = out or beside(gguf)
    parts = calibration_text.resolve(calibration.text, calibration.field, reporter)
    text = chat_texts.calibration(parts, base, reporter)
    session = run.session(where, reporter)
    sampling = ImatrixOptions(n_chunks=calibration.samples, ngl=run.ngl, process_output=calibration.process_output)
    with session.workspace.locked():
        return make_imatrix(base, text, where / f"{stem_of(gguf)}.imatrix", sampling, session)


@dataclass(frozen=True)
class Quantization:
    """Which files are quantized from a GGUF, and with which importance matrix.

    Args:
        types: as they are typed; none where a recipe says all.
        recipe: a recipe of types, or what serves as one.
        calibration, calibration_field: the text that types are measured on, and where it is in JSON.
        effort, types_allowed: how they are measured.
        split: bytes of a part at most, where files are to be had in parts.
    """

    types: tuple[str, ...] | None = None
    recipe: Path | None = None
    imatrix: Path | None = None
    allow_requantize: bool = False
    calibration: str | tuple[str, ...] = ()
    calibration_field: str = CalibrationOptions.field
    effort: str = RecipeOptions.effort
    types_allowed: tuple[str, ...] = ()
    split: int | None = None
    out: Path | None = None

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


def quantize(
    gguf: Path,
    wanted: Quantization,
    overrides: OverrideOptions,
    run: RunOptions,
    reporter: Reporter,
    tell: Callable[[Result], object] = lambda _: None,
) -> list[Result]:
    """A GGUF -> one file per type; each is told when it is there. Raises GgufkitError."""
    types, told = wanted.all_types, overrides.resolve()
    overridden.require_own_types(told, [name for name in types if targets.is_measured(name)])
    base, header = sources.open_gguf(gguf), read_header(gguf)
    gguf = base.path
    quantizing.require_base(header, allow_requantize=wanted.allow_requantize)
    missing = require_fits(wanted.imatrix, header) if wanted.imatrix is not None else ()
    variant = variants.BY_NAME["plain" if wanted.imatrix is None else "imatrix"]
    where, name = wanted.out or beside(gguf), sources.name_of(gguf)
    plainly = QuantizeOptions(wanted.imatrix, wanted.allow_requantize, variant.name, name, told)
    name_missing(missing, reporter)
    session = run.session(where, reporter)
    kinds = targets.resolve(types, quantizing.known_types(session.tools))
    material = _material(wanted, kinds, base, reporter)
    for kind in kinds:
        if not wanted.allow_requantize:
            refuse_floats_of_carried(header, kind.name)
        if not is_measured(kind):
            quantizing.require_matrix(session.tools, gguf, kind, given(header, kind, plainly))
    if wanted.split is not None:
        _require_parts(wanted.split, header, kinds, plainly, session)
    done = []
    with session.workspace.locked():
        for kind in kinds:
            output = division.there(where / variants.file_name(name, variant, kind.name))
            how = chosen.settle(base, kind, output, plainly, material, session)
            done.append(quantizing.quantize(base, output, kind, how, session))
            if substitutes := _substitutes(done[-1]):
                reporter.warn(substitutes)
            if wanted.split is not None:
                done[-1] = division.divided(done[-1], wanted.split, reporter)
            tell(done[-1])
    return done


def _require_parts(
    limit: int, base: GgufHeader, kinds: Sequence[QuantType], how: QuantizeOptions, session: Session
) -> None:
    """Require parts in which all tensors have room as they will be; of measured types that is seen when they are made.

    Raises:
        UsageError: one is too large.
    """
    for kind in kinds:
        if is_measured(kind):
            continue
        planned = quantizing.plan(session.tools, base.path, kind, given(base, kind, how))
        sizes = {tensor.name: n_bytes(tensor) for tensor in planned.tensors}
        kept = (replace(t, n_bytes=sizes[t.name]) for t in base.tensors if t.name in sizes)
        division.require_possible(replace(base, tensors=tuple(kept)), limit)


def _substitutes(made: Result) -> str:
    """What is to be said of tensors that have another type than was planned; nothing where there are none."""
    notes = quantizing.QuantizeNotes.from_manifest(made.manifest)
    counts = Counter(f"{own} for {wanted}" for _, wanted, own in notes.fallbacks)
    if not counts:
        return ""
    bpw = sources.open_gguf(made.path).bpw
    swaps = ", ".join(f"{swap} {count} times" for swap, count in counts.most_common())
    return (
        f"{made.path.name} has {bpw:.2f} bits/weight: the rows of {notes.n_fallback} tensors are no whole number of their "
        f"types' blocks ({swaps})."
    )


def _material(
    wanted: Quantization, kinds: Sequence[QuantType], base: GgufFile, reporter: Reporter
) -> Means | None:
    """What types are measured with; None where they are not.

    Raises:
        UsageError: the text for it is missing, or has no use.
        InputError: it cannot be read; or the model is an encoder, of which nothing is measured.
    """
    measured = [kind for kind in kinds if is_measured(kind)]
    if not wanted.calibration:
        if measured:
            raise chosen.needs_text(measured[0])
        return None
    if not measured:
        message = "--calibration is not used: no type of these is chosen by measurement."
        raise UsageError(message, hint="Leave it out; an importance matrix is made with `ggufkit imatrix`.")
    chosen.require_measurable(base.path)
    parts = calibration_text.resolve(wanted.calibration, wanted.calibration_field, reporter)
    text = chat_texts.calibration(parts, base, reporter)
    return Means(RecipeSources(wanted.imatrix, text), wanted.recipes)
