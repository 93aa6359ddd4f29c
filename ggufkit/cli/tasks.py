"""The command that asks questions: tasks."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from ggufkit.cli import options, parameter_types, request_options, tables
from ggufkit.cli.measure import GGUFS, OUT
from ggufkit.cli.terminal import console, emit, reporting
from ggufkit.commands import tasks
from ggufkit.commands.tasks import Tasks
from ggufkit.report import results
from ggufkit.report.tasks import tables_of
from ggufkit.request import RunOptions
from ggufkit.steps.step import Workspace


@click.command("tasks")
@GGUFS
@click.option("--base", type=parameter_types.FILE, help="GGUF whose answers are compared: the F16 they come from.")
@request_options.task_options
@OUT
@request_options.run_options
@options.json_option
def tasks_command(
    ggufs: tuple[Path, ...], base: Path | None, wanted: Tasks, out: Path | None, run: RunOptions, as_json: bool
) -> None:
    """Questions with several answers: how many does a file answer rightly, and which of the base's does it lose?

    Answers come from llama-perplexity, without examples. A flip is an answer that is right in one of the two files and
    wrong in the other; p is McNemar's, exact.

    \b
    Examples:
        ggufkit tasks model-*.gguf --base model-F16.gguf --tasks hellaswag,arc
        ggufkit tasks model-Q4_K_M.gguf --tasks mine=questions.jsonl
    """
    with reporting() as reporter:
        done = tasks.tasks(ggufs, base, wanted, out, run, reporter)
    rows = results.rows_of([file.path for file in done.files], Workspace(done.out))
    asked = {result.path.name.removesuffix(".json").rpartition(".task-")[2] for result in done.results}
    if as_json:
        scores = {row.file: [asdict(score) for score in row.tasks if score.task in asked] for row in rows}
        emit(json.dumps(scores, indent=1) + "\n")
        return
    for number, table in enumerate(one for one in tables_of(rows) if one.task in asked):
        screen = console(stderr=False)
        if number:
            screen.print()
        for part in tables.tasks_table(table):
            screen.print(part)
