"""Commands that calibrate a checkpoint's weights: awq, refine."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from ggufkit.cli import options, parameter_types, request_options
from ggufkit.cli.options import grouped
from ggufkit.cli.terminal import emit_path, reporting
from ggufkit.core import extras
from ggufkit.core.errors import InputError
from ggufkit.core.manifest import read_manifest
from ggufkit.core.paths import cache_dir
from ggufkit.core.progress import Reporter
from ggufkit.core.records import Checkpoint, GgufFile, QuantType
from ggufkit.core.variants import Scaling
from ggufkit.llama import targets
from ggufkit.models import sources
from ggufkit.models.lora import merge
from ggufkit.pipeline import chosen
from ggufkit.pipeline.foreseen import planned_types
from ggufkit.pipeline.lookup import refuse_inside, require_folds
from ggufkit.recipes.type_recipe import recipe_path
from ggufkit.refine.options import RefineOptions
from ggufkit.request import CalibrationOptions, RunOptions, Source
from ggufkit.steps import awq, convert, quantize, refine, step
from ggufkit.steps.awq import ScalingOptions, Wanted
from ggufkit.steps.convert import ConvertOptions
from ggufkit.steps.refine import Refinable, RefiningOptions
from ggufkit.steps.session import Session
from ggufkit.texts import calibration_text
from ggufkit.texts.calibration import Calibration, draw, load_tokenizer, read_texts
from ggufkit.texts.corpus import Corpus


@dataclass(frozen=True)
class AwqTarget:
    """What is scaled, where to, and what it will be quantized to."""

    model: str
    out: Path | None
    types: tuple[str, ...]
    for_imatrix: bool


target_options = grouped(
    "target",
    lambda given: AwqTarget(**given),
    click.argument("model"),
    click.option("--out", type=parameter_types.PATH, metavar="DIR",
                 help="The scaled checkpoint.  [default: <MODEL>-awq]"),
    click.option("--types", type=parameter_types.NAMES, default="q4_k_m", show_default=True, metavar="LIST",
                 help="What it will be quantized to."),
    click.option("--for-imatrix", is_flag=True, help="It will be quantized with an importance matrix."),
)  # fmt: skip


@click.command("awq")
@target_options
@request_options.calibration_options
@request_options.scaling_options
@request_options.source_options
@request_options.cpu_options
def awq_command(
    target: AwqTarget, calibration: CalibrationOptions, scaling: ScalingOptions, source: Source, run: RunOptions
) -> None:
    """Fold AWQ scales into the checkpoint MODEL; its function stays as it is.

    The result is a Hugging Face checkpoint, ready for `ggufkit convert`.

    \b
    Example:
        ggufkit awq ./Qwen2.5-0.5B --types q4_k_m,q4_0 --out ./Qwen2.5-0.5B-awq
    """
    scaling.require_possible()
    extras.require("awq", *(["lora"] if source.lora else []))
    with reporting() as reporter:
        checkpoint = _checkpoint(target.model, source, reporter)
        require_folds(checkpoint)
        output = _scaled_path(target.model, checkpoint, target.out)
        text = calibration_text.resolve(calibration.text, calibration.field, reporter)
        private_dir = cache_dir() / "work" / hashlib.sha256(str(output.resolve()).encode()).hexdigest()[:16]
        session = run.session(private_dir, reporter)
        known = quantize.known_types(session.tools)
        kinds = targets.resolve(target.types, known)
        with session.workspace.locked():
            types = _planned_types(checkpoint, kinds, known, session)
            wanted = _wanted(output, types, target.for_imatrix, per_type=scaling.per_type)
            made = awq.scale(checkpoint, wanted, _draw(checkpoint, text, calibration), scaling, session)
    for result in made:
        _show_proof(result, reporter)
        emit_path(result.path)


def _checkpoint(model: str, source: Source, reporter: Reporter) -> Checkpoint:
    found = sources.resolve(model, source, reporter)
    if isinstance(found, GgufFile):
        raise InputError(f"{model} is a GGUF already.", hint="Give the Hugging Face checkpoint it was made from.")
    return merge(found, source.lora, reporter) if source.lora is not None else found


def _scaled_path(model: str, checkpoint: Checkpoint, out: Path | None) -> Path:
    output = out or options.beside_model(model) / f"{checkpoint.name}-awq"
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


def _draw(checkpoint: Checkpoint, text: Corpus, how: CalibrationOptions) -> Calibration:
    return draw(read_texts(text.path), load_tokenizer(checkpoint.path), how.sampling, source=text.name)


def _show_proof(result: step.Result, reporter: Reporter) -> None:
    equality = result.manifest.notes.get("equality")
    if not isinstance(equality, dict):
        return
    for kind, what in (("folded", "as folded, in float32"), ("written", "as written")):
        found = equality[kind]
        if isinstance(found, dict):
            reporter.info(
                f"Equal {what}: max |Δlogit| {found['max_delta']:.2g}, mean KL divergence {found['kl_mean']:.2g} "
                f"(logits' standard deviation {equality['logit_std']:.3g}, {equality['n_tokens']:,} held-out tokens)"
            )


@dataclass(frozen=True)
class RefineFiles:
    """What is refined, what it was made from, and where to; `model` is the checkpoint that `base` was made from."""

    quantized: Path
    base: Path
    model: str
    out: Path | None


files_options = grouped(
    "files",
    lambda given: RefineFiles(**given),
    click.argument("quantized", type=parameter_types.FILE),
    click.option("--base", type=parameter_types.FILE, required=True,
                 help="The F16, BF16 or F32 GGUF that it was made from."),
    click.option("--model", required=True, help="The checkpoint that the base was converted from."),
    click.option("--out", type=parameter_types.PATH, metavar="FILE",
                 help="The refined file.  [default: beside it, -gptq-]"),
)  # fmt: skip


@click.command("refine")
@files_options
@request_options.calibration_options
@request_options.refinement_options
@request_options.cpu_options
def refine_command(
    files: RefineFiles, calibration: CalibrationOptions, refinement: RefineOptions, run: RunOptions
) -> None:
    """Round the weights of QUANTIZED again, by GPTQ: same bytes, less loss.

    \b
    Example:
        ggufkit refine m-imatrix-Q4_K_M.gguf --base m-F16.gguf --model ./m
    """
    extras.require("refine")
    with reporting() as reporter:
        rounded, original = sources.open_gguf(files.quantized), sources.open_gguf(files.base)
        checkpoint = _checkpoint(files.model, Source(), reporter)
        kind, name = refine.type_of(files.quantized), checkpoint.name
        output = files.out or files.quantized.parent / f"{name}-gptq-{kind}.gguf"
        if output.is_dir():
            raise InputError(f"{output} is a directory.", hint="Give with --out the name of the refined file.")
        text = calibration_text.resolve(calibration.text, calibration.field, reporter)
        how = RefiningOptions(refinement, type=kind, name=name)
        session = run.session(output.resolve().parent, reporter)
        with session.workspace.locked():
            drawn = _draw(checkpoint, text, calibration)
            if recipe_path(files.quantized).is_file():
                chosen.copy_recipe(files.quantized, output, session)
            refine.refine(Refinable(rounded, original, checkpoint, drawn), output, how, session)
    emit_path(output)
