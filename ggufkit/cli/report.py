"""Commands for what others see: report, compare."""

from __future__ import annotations

import json
from pathlib import Path

import click

from ggufkit.cli import options, parameter_types, request_options, side_by_side, tables
from ggufkit.cli.terminal import console, emit, reporting
from ggufkit.core.errors import InputError, UsageError
from ggufkit.report import compare, results
from ggufkit.report.choose import MemoryBudget


@click.command("report")
@click.argument("directory", metavar="DIR", type=parameter_types.DIRECTORY)
@request_options.budget_options
@click.option("--card", is_flag=True, help="Write README.md too: a model card for a hub.")
@click.option("--repo", metavar="REPO", help="With --card: the repository that it is for, so that it has links.")
@options.json_option
def report_command(directory: Path, budget: MemoryBudget, card: bool, repo: str | None, as_json: bool) -> None:
    """Write the tables and plots of DIR again from what was measured; nothing is re-run.

    \b
    Example:
        ggufkit report ./qwen2.5-0.5b --fits 2GiB
    """
    from ggufkit import report
    from ggufkit.hub.addresses import require_repo
    from ggufkit.report.card import CARD, is_rewritten, write_card

    if repo is not None and not card:
        raise UsageError("--repo is for the card.", hint="Add --card.")
    if repo is not None:
        require_repo(repo)
    with reporting() as reporter:
        rows = results.collect(directory, reporter)
    report.require_writable(directory)
    report.write(rows, directory, budget)
    if card and is_rewritten(directory):
        hint = "Move it away, or take what you need from report.md, which was written now."
        raise InputError(f"{directory / CARD} was written or edited by hand.", hint=hint)
    if card:
        write_card(rows, directory, repo)
    if as_json:
        from ggufkit.report.tables import to_json

        emit(to_json(rows))
        return
    screen = console(stderr=False)
    for part in tables.answer(report.summary_of(rows, directory, budget)):
        screen.print(part)


@click.command("compare")
@click.argument("directories", metavar="DIR...", nargs=-1, required=True, type=parameter_types.DIRECTORY)
@options.json_option
def compare_command(directories: tuple[Path, ...], as_json: bool) -> None:
    """Result directories side by side; what is not comparable stands apart, with the reason.

    Exit code 3 when nothing of one directory can be compared with anything of another.

    \b
    Example:
        ggufkit compare ./plain ./awq
    """
    with reporting() as reporter:
        found = compare.compare(compare.load(directories, reporter))
    if as_json:
        emit(json.dumps(side_by_side.as_json(found), indent=1) + "\n")
    else:
        for table in side_by_side.tables(found):
            console(stderr=False).print(table)
    if len(directories) > 1 and not found.comparable:
        reasons = "; ".join(dict.fromkeys(r for g in [*found.quality, *found.speed] for r in g.reasons))
        message = f"Nothing here is comparable: {reasons or 'nothing was measured in two directories'}."
        raise InputError(message, hint="Measure with the same --corpus, --ctx and --chunks, from the same base.")
