"""Commands that do everything: build, demo."""

from __future__ import annotations

from pathlib import Path

import click

from ggufkit import report
from ggufkit.cli import options, parameter_types, request_options, tables
from ggufkit.cli.terminal import console, emit, reporting
from ggufkit.core import durations
from ggufkit.core.durations import Estimate
from ggufkit.core.units import size
from ggufkit.pipeline import build, oversized, plan
from ggufkit.pipeline.build import BuildResult
from ggufkit.pipeline.resources import Plan
from ggufkit.report.choose import MemoryBudget
from ggufkit.request import BuildRequest, RunOptions


@click.command("build")
@request_options.build_options
@click.option(
    "--dry-run", is_flag=True, help="Show the plan; write nothing, and fetch no weights from Hugging Face."
)
@options.json_option
def build_command(wanted: BuildRequest, dry_run: bool, as_json: bool) -> None:
    """Convert, quantize, measure and report MODEL.

    MODEL is an alias, OWNER/NAME[@REVISION] on Hugging Face, ms:OWNER/NAME on ModelScope, a checkpoint directory,
    or a .gguf file in F32, F16 or BF16.

    \b
    Examples:
        ggufkit build qwen2.5-0.5b --types q4_k_m,q8_0
        ggufkit build ./my-checkpoint --lora ./my-adapter
        ggufkit build model-F16.gguf --types q4_k_m --no-bench --dry-run
    """
    with reporting() as reporter:
        outcome = plan.plan(wanted, reporter) if dry_run else build.build(wanted, reporter)
    if isinstance(outcome, Plan):
        _show_plan(outcome, as_json)
    else:
        _show_results(outcome, as_json, MemoryBudget.of(wanted.report))


def _show_plan(plan: Plan, as_json: bool) -> None:
    if as_json:
        import json
        from dataclasses import asdict

        emit(json.dumps(asdict(plan), indent=1) + "\n")
        return
    screen = console(stderr=False)
    screen.print(tables.plan_table(plan))
    screen.print(tables.steps_table(plan))
    if plan.seconds:
        screen.print(f"Time: {durations.words(Estimate(plan.seconds, plan.seconds_factor))}.")
    if plan.download_bytes:
        screen.print(f"Download: {size(plan.download_bytes)}.")
    screen.print(f"Disk at the peak: {size(plan.disk_needed)} of {size(plan.disk_free)} free.")
    screen.print(f"Memory: about {size(plan.ram_needed)} of {size(plan.ram_free)} free.")
    if plan.mtp:
        screen.print(plan.mtp, soft_wrap=True)
    if plan.remarks:
        screen.print(oversized.WHY, soft_wrap=False)
    for remark in plan.remarks:
        screen.print(f"  {remark}", soft_wrap=False)
    if measured := ", ".join(dict.fromkeys(file.type for file in plan.files if file.at_most)):
        screen.print(f"Types are chosen by measurement, within these sizes: {measured}.", soft_wrap=True)


def _show_results(result: BuildResult, as_json: bool, budget: MemoryBudget | None = None) -> None:
    if as_json:
        from ggufkit.report.tables import to_json

        emit(to_json(result.rows))
        return
    screen = console(stderr=False)
    state = "Nothing had to be done again" if result.made == 0 else "Done"
    for part in tables.answer(report.summary_of(result.rows, result.out, budget)):
        screen.print(part)
    screen.print(f"{state}: {result.out}/results.csv, report.md, report.html")


@click.command("demo")
@click.option(
    "--out", type=parameter_types.PATH, default="ggufkit-demo", show_default=True, help="Output directory."
)
@request_options.redo_options
def demo_command(out: Path, run: RunOptions) -> None:
    """Build and measure the small model that ships with ggufkit.

    The first thing to run on a new machine: it needs no network once llama.cpp is built.
    """
    from ggufkit import demo

    wanted = BuildRequest(
        demo.checkpoint(),
        out,
        ("q4_k_m", "q5_k_m", "q8_0"),
        corpus=demo.evaluation_text(),
        chunks=40,
        bench_reps=3,
        run=run,
    )
    with reporting() as reporter:
        result = build.build(wanted, reporter)
    _show_results(result, as_json=False)
    screen = console(stderr=False)
    screen.print()
    screen.print("Try next:")
    screen.print(f"  ggufkit inspect {out}/{result.rows[-1].file}", soft_wrap=True)
    screen.print("  ggufkit build YOUR-CHECKPOINT --types q4_k_m,q8_0 --dry-run", soft_wrap=True)
    screen.print("  ggufkit build YOUR-CHECKPOINT --types q4_k_m,q8_0 --corpus YOUR-TEXT", soft_wrap=True)
