"""Commands that make better files than rounding alone: awq, refine."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from ggufkit.cli import options
from ggufkit.cli.terminal import reporting
from ggufkit.core import extras
from ggufkit.core.errors import InputError
from ggufkit.core.manifest import read_manifest
from ggufkit.core.paths import cache_dir
from ggufkit.core.progress import Reporter
from ggufkit.core.records import Checkpoint, GgufFile
from ggufkit.llama import quants, toolchain
from ggufkit.llama.logs import QuantType
from ggufkit.models import sources
from ggufkit.models.lora import merge
from ggufkit.models.sources import SourceOptions
from ggufkit.pipeline.job import refuse_inside, require_folds
from ggufkit.refine.options import RefineOptions
from ggufkit.steps import awq, convert, quantize, refine, step
from ggufkit.steps.awq import ScalingOptions, Wanted
from ggufkit.steps.convert import ConvertOptions
from ggufkit.steps.refine import Refinable, RefiningOptions
from ggufkit.steps.session import Session
from ggufkit.texts import calibration_text
from ggufkit.texts.calibration import Calibration, Sampling, draw, load_tokenizer, read_texts

DEVICES = click.Choice(["auto", "cpu", "cuda"])
device_option = click.option("--device", type=DEVICES, default="auto", show_default=True, help="Of the search.")


@click.command("awq")
@click.argument("model")
@click.option("--out", type=options.PATH, metavar="DIR", help="The scaled checkpoint.  [default: <MODEL>-awq]")
@click.option(
    "--types",
    type=options.NAMES,
    default="q4_k_m",
    show_default=True,
    metavar="LIST",
    help="What it will be quantized to.",
)
@click.option("--for-imatrix", is_flag=True, help="It will be quantized with an importance matrix.")
@options.calibration_options
@options.awq_options
@device_option
@options.threads_option
@options.source_options
@options.redo_options
def awq_command(
    model: str, out: Path | None, types: tuple[str, ...], for_imatrix: bool, calibration: str,
    calibration_samples: int, calibration_field: str, seed: int, awq_engine: str, awq_objective: str,
    awq_dtype: str, awq_per_type: bool, device: str, threads: int, source: str, allow_pickle: bool,
    lora: Path | None, force: bool, explain: bool,
) -> None:  # fmt: skip
    """Fold AWQ scales into the checkpoint MODEL; its function stays as it is.

    The result is a Hugging Face checkpoint, ready for `ggufkit convert`.

    \b
    Example:
        ggufkit awq ./Qwen2.5-0.5B --types q4_k_m,q4_0 --out ./Qwen2.5-0.5B-awq
    """
    extras.require("awq", *(["lora"] if lora else []))
    how = ScalingOptions(awq_engine, awq_objective, awq_dtype, awq_per_type, device)
    with reporting() as reporter:
        checkpoint = _checkpoint(model, SourceOptions(source, allow_pickle), lora, reporter)
        require_folds(checkpoint)
        output = _scaled_path(model, checkpoint, out)
        text = calibration_text.resolve(calibration, calibration_field, reporter)
        corner = cache_dir() / "work" / hashlib.sha256(str(output.resolve()).encode()).hexdigest()[:16]
        session = Session(
            toolchain.find("auto", reporter), step.Workspace(corner), reporter, threads, force, explain
        )
        kinds = quants.resolve(types, quantize.known_types(session.tools))
        with session.workspace.locked():
            wanted = _wanted(checkpoint, output, kinds, for_imatrix, how, session)
            drawn = _draw(checkpoint, text.path, text.name, calibration_samples, seed)
            made = awq.scale(checkpoint, wanted, drawn, how, session)
    for result in made:
        _show_proof(result, reporter)
        click.echo(result.path)


def _checkpoint(model: str, where: SourceOptions, lora: Path | None, reporter: Reporter) -> Checkpoint:
    found = sources.resolve(model, where, reporter)
    if isinstance(found, GgufFile):
        raise InputError(f"{model} is a GGUF already.", hint="Give the Hugging Face checkpoint it was made from.")
    return merge(found, lora, reporter) if lora is not None else found


def _scaled_path(model: str, checkpoint: Checkpoint, out: Path | None) -> Path:
    output = out.expanduser() if out else options.beside_model(model) / f"{checkpoint.name}-awq"
    refuse_inside(output, checkpoint)
    if output.is_file() or (output.is_dir() and any(output.iterdir()) and read_manifest(output) is None):
        raise InputError(f"{output} is something else already.", hint="Choose a new directory with --out.")
    home = next(p for p in output.absolute().parents if p.exists())
    if not os.access(home, os.W_OK):
        raise InputError(f"{home} cannot be written.", hint="Choose a directory that you can write with --out.")
    return output


def _wanted(
    checkpoint: Checkpoint,
    output: Path,
    kinds: tuple[QuantType, ...],
    importance: bool,
    how: ScalingOptions,
    session: Session,
) -> list[Wanted]:
    with TemporaryDirectory(prefix="ggufkit-plan-") as temporary:
        empty = convert.skeleton(checkpoint, Path(temporary) / "plan.gguf", ConvertOptions(), session)
        types = {kind.name: awq.planned_types(session.tools, empty, kind) for kind in kinds}
    label = "awq+imatrix" if importance else "awq"
    if how.per_type:
        beside = {name: output.with_name(f"{output.name}-{name}") for name in types}
        return [Wanted(f"{label}-{name}", beside[name], (types[name],), importance) for name in types]
    return [Wanted(label, output, tuple(types.values()), importance)]


def _draw(checkpoint: Checkpoint, path: Path, name: str, samples: int, seed: int) -> Calibration:
    sampling = Sampling(samples, seed=seed)
    return draw(read_texts(path), load_tokenizer(checkpoint.path), sampling, source=name)


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


@click.command("refine")
@click.argument("quantized", type=options.FILE)
@click.option("--base", type=options.FILE, required=True, help="The F16, BF16 or F32 GGUF that it was made from.")
@click.option("--model", required=True, help="The checkpoint that the base was converted from.")
@click.option("--out", type=options.PATH, metavar="FILE", help="The refined file.  [default: beside it, -gptq-]")
@options.calibration_options
@click.option("--sequential/--one-pass", default=True, show_default=True, help="Each layer after those before it.")
@click.option(
    "--act-order",
    type=click.Choice(["auto", "on", "off"]),
    default="auto",
    show_default=True,
    help="Columns by weight of their input; auto: as it measures better.",
)
@click.option("--include-output", is_flag=True, help="Refine the output matrix too.")
@click.option("--tune-norms", is_flag=True, help="Tune norms and biases afterwards; wants 500 samples or more.")
@device_option
@options.threads_option
@options.redo_options
def refine_command(
    quantized: Path, base: Path, model: str, out: Path | None, calibration: str, calibration_samples: int,
    calibration_field: str, seed: int, sequential: bool, act_order: str, include_output: bool, tune_norms: bool,
    device: str, threads: int, force: bool, explain: bool,
) -> None:  # fmt: skip
    """Round the weights of QUANTIZED again, by GPTQ: same bytes, less loss.

    \b
    Example:
        ggufkit refine m-imatrix-Q4_K_M.gguf --base m-F16.gguf --model ./m
    """
    extras.require("refine")
    with reporting() as reporter:
        rounded, original = sources.open_gguf(quantized), sources.open_gguf(base)
        checkpoint = _checkpoint(model, SourceOptions(), None, reporter)
        kind, name = refine.type_of(quantized), checkpoint.name
        output = (out or quantized.parent / f"{name}-gptq-{kind}.gguf").expanduser()
        if output.is_dir():
            raise InputError(f"{output} is a directory.", hint="Give with --out the name of the refined file.")
        text = calibration_text.resolve(calibration, calibration_field, reporter)
        rounding = RefineOptions(sequential, act_order, include_output, tune_norms, device)
        how = RefiningOptions(rounding, type=kind, name=name)
        where = step.Workspace(output.resolve().parent)
        session = Session(toolchain.find("auto", reporter), where, reporter, threads, force, explain)
        with session.workspace.locked():
            drawn = _draw(checkpoint, text.path, text.name, calibration_samples, seed)
            refine.refine(Refinable(rounded, original, checkpoint, drawn), output, how, session)
    click.echo(output)
