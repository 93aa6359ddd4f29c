"""Commands that calibrate a checkpoint's weights: awq, refine."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from ggufkit.commands.places import beside_model, drawn, floats_of
from ggufkit.core import extras
from ggufkit.core.errors import InputError
from ggufkit.core.manifest import read_manifest
from ggufkit.core.paths import cache_dir
from ggufkit.core.progress import Reporter
from ggufkit.core.records import Checkpoint, QuantType
from ggufkit.core.variants import Scaling
from ggufkit.llama import targets
from ggufkit.modelfile import chat_texts
from ggufkit.models import sources
from ggufkit.pipeline import chosen
from ggufkit.pipeline.foreseen import planned_types
from ggufkit.pipeline.lookup import refuse_inside, require_folds
from ggufkit.recipes.type_recipe import recipe_path
from ggufkit.refine.options import RefineOptions
from ggufkit.request import CalibrationOptions, RunOptions, Source
from ggufkit.steps import awq as scaling_step
from ggufkit.steps import convert, quantize
from ggufkit.steps import refine as refining_step
from ggufkit.steps.awq import ScalingOptions, Wanted
from ggufkit.steps.convert import ConvertOptions
from ggufkit.steps.refine import Refinable, RefiningOptions
from ggufkit.steps.session import Session
from ggufkit.steps.step import Result
from ggufkit.texts import calibration_text

_ORIGINAL = "Give the Hugging Face checkpoint it was made from."


@dataclass(frozen=True)
class AwqTarget:
    """What is scaled, where to, and what it will be quantized to."""

    model: str
    out: Path | None = None
    types: tuple[str, ...] = ("q4_k_m",)
    for_imatrix: bool = False


def awq(
    target: AwqTarget,
    calibration: CalibrationOptions,
    scaling: ScalingOptions,
    source: Source,
    run: RunOptions,
    reporter: Reporter,
) -> list[Result]:
    """A checkpoint -> the same function with AWQ scales folded in; one for each type with `per_type`.

    Raises:
        GgufkitError: of the kind that tells what went wrong.
    """
    scaling.require_possible()
    extras.require("awq", *(["lora"] if source.lora else []))
    checkpoint = floats_of(target.model, source, reporter, _ORIGINAL)
    require_folds(checkpoint)
    output = _scaled_path(target.model, checkpoint, target.out)
    parts = calibration_text.resolve(calibration.text, calibration.field, reporter)
    text = chat_texts.calibration(parts, checkpoint, reporter)
    private_dir = cache_dir() / "work" / hashlib.sha256(str(output.resolve()).encode()).hexdigest()[:16]
    session = run.session(private_dir, reporter)
    known = quantize.known_types(session.tools)
    kinds = targets.resolve(target.types, known)
    with session.workspace.locked():
        types = _planned_types(checkpoint, kinds, known, session)
        wanted = _wanted(output, types, target.for_imatrix, per_type=scaling.per_type)
        return scaling_step.scale(checkpoint, wanted, drawn(checkpoint, text, calibration), scaling, session)


def _scaled_path(model: str, checkpoint: Checkpoint, out: Path | None) -> Path:
    output = out or beside_model(model) / f"{checkpoint.name}-awq"
    refuse_inside(output, checkpoint)
    if output.is_file() or (output.is_dir() and any(output.iterdir()) and read_manifest(output) is None):
        raise InputError(f"{output} is something else already.", hint="Choose a new directory with --out.")
    home = next(p for p in output.absolute().parents if p.exists())
    if not os.access(home, os.W_OK):
        raise InputError(f"{home} cannot be written.", hint="Choose a directory that you can write with --out.")
    return output


def _planned_types(
    checkpoint: Checkpoint, kinds: tuple[QuantType, ...], known: tuple[QuantType, ...], session: Session
) -> dict[str, dict[str, str]]:
    """The type that each tensor will get, for each type that the checkpoint will be quantized to."""
    with TemporaryDirectory(prefix="ggufkit-plan-") as temporary:
        empty = convert.skeleton(checkpoint, Path(temporary) / "plan.gguf", ConvertOptions(), session)
        return {kind.name: planned_types(session.tools, empty, kind, known) for kind in kinds}


def _wanted(output: Path, types: dict[str, dict[str, str]], importance: bool, *, per_type: bool) -> list[Wanted]:
    if not per_type:
        return [Wanted(Scaling(importance), output, tuple(types.values()))]
    beside = {name: output.with_name(f"{output.name}-{name}") for name in types}
    return [Wanted(Scaling(importance, name), beside[name], (types[name],)) for name in types]


@dataclass(frozen=True)
class RefineFiles:
    """What is refined, what it was made from, and where to; `model` is the checkpoint that `base` was made from."""

    quantized: Path
    base: Path
    model: str
    out: Path | None = None


def refine(
    files: RefineFiles,
    calibration: CalibrationOptions,
    refinement: RefineOptions,
    run: RunOptions,
    reporter: Reporter,
) -> Result:
    """A quantized GGUF -> the same file with its weights rounded again, by GPTQ. Raises GgufkitError."""
    extras.require("refine")
    rounded, original = sources.open_gguf(files.quantized), sources.open_gguf(files.base)
    checkpoint = floats_of(files.model, Source(), reporter, _ORIGINAL)
    kind, name = refining_step.type_of(rounded.path), checkpoint.name
    output = files.out or files.quantized.parent / f"{name}-gptq-{kind}.gguf"
    if output.is_dir():
        raise InputError(f"{output} is a directory.", hint="Give with --out the name of the refined file.")
    parts = calibration_text.resolve(calibration.text, calibration.field, reporter)
    text = chat_texts.calibration(parts, checkpoint, reporter)
    how = RefiningOptions(refinement, type=kind, name=name)
    session = run.session(output.resolve().parent, reporter)
    with session.workspace.locked():
        samples = drawn(checkpoint, text, calibration)
        if recipe_path(files.quantized).is_file():
            chosen.copy_recipe(files.quantized, output, session)
        return refining_step.refine(Refinable(rounded, original, checkpoint, samples), output, how, session)
