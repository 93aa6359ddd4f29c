"""Commands that calibrate a checkpoint's weights: awq, refine."""

from __future__ import annotations

import click

from ggufkit.cli import completion, parameter_types, request_options
from ggufkit.cli.options import grouped
from ggufkit.cli.terminal import emit_path, reporting
from ggufkit.commands import engines
from ggufkit.commands.engines import AwqTarget, RefineFiles
from ggufkit.core.progress import Reporter
from ggufkit.refine.options import RefineOptions
from ggufkit.request import CalibrationOptions, RunOptions, Source
from ggufkit.steps import step
from ggufkit.steps.awq import ScalingOptions

target_options = grouped(
    "target",
    lambda given: AwqTarget(**given),
    click.argument("model", shell_complete=completion.models),
    click.option("--out", type=parameter_types.PATH, metavar="DIR",
                 help="The scaled checkpoint.  [default: <MODEL>-awq]"),
    click.option("--types", type=parameter_types.NAMES, default="q4_k_m", show_default=True, metavar="LIST",
                 shell_complete=completion.types,
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
    with reporting() as reporter:
        made = engines.awq(target, calibration, scaling, source, run, reporter)
    for result in made:
        _show_proof(result, reporter)
        emit_path(result.path)


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
    with reporting() as reporter:
        made = engines.refine(files, calibration, refinement, run, reporter)
    emit_path(made.path)
