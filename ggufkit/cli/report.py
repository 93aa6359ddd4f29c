"""Commands for what others see: report, compare."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import click
from click.core import ParameterSource

from ggufkit.cli import options, parameter_types, request_options, rivals, side_by_side, tables
from ggufkit.cli.terminal import console, emit, reporting
from ggufkit.commands import compare as comparing
from ggufkit.commands.compare import Compared
from ggufkit.core.errors import InputError, UsageError
from ggufkit.report import caches, compare, results, unevenness
from ggufkit.report.choose import MemoryBudget
from ggufkit.request import EvaluationOptions, RunOptions


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
        results.require_whole_sets(directory)
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
@click.argument("given", metavar="DIR...|BASE GGUF...", nargs=-1, required=True, type=parameter_types.PATH)
@request_options.evaluation_options
@click.option(
    "--out", type=parameter_types.PATH, help="Of files: directory of the results.  [default: ./<name>-compared]"
)
@request_options.run_options
@options.json_option
def compare_command(
    given: tuple[Path, ...], evaluation: EvaluationOptions, out: Path | None, run: RunOptions, as_json: bool
) -> None:
    """Result directories side by side; or GGUF files of one model, whoever made them, against one base.

    Of directories, what is not comparable stands apart, with the reason. Exit code 3 when nothing of one can be
    compared with anything of another.

    Files are paths, or hub:OWNER/NAME/FILE[@REVISION] (ms:OWNER/NAME/FILE of ModelScope). They are measured as
    `ggufkit perplexity --base` does, one base pass for all; what differs is told against the first after BASE. A file
    of another model is refused, with the reason.

    \b
    Examples:
        ggufkit compare ./plain ./awq
        ggufkit compare x-F16.gguf x-Q4_K_M.gguf hub:acme/x-GGUF/x-Q4_K_M.gguf
    """
    words = [str(one) for one in given]
    if comparing.are_files(words):
        with reporting() as reporter:
            done = comparing.compare(words, evaluation, out, run, reporter)
        _show_files(done, as_json)
        return
    _refuse_options_of_files()
    _show_directories(given, as_json)


def _refuse_options_of_files() -> None:
    context = click.get_current_context()
    typed = (
        parameter.opts[0]
        for parameter in context.command.params
        if isinstance(parameter, click.Option) and parameter.name not in ("as_json", "quiet")
        and context.get_parameter_source(str(parameter.name)) == ParameterSource.COMMANDLINE
    )  # fmt: skip
    if (option := next(typed, None)) is not None:
        message = f"{option} is about GGUF files; what a directory holds was measured before."
        raise UsageError(message, hint="Leave it out, or name the files.")


def _show_files(done: Compared, as_json: bool) -> None:
    if as_json:
        emit(json.dumps([rival.as_json() for rival in done.rivals.all], indent=1) + "\n")
        return
    screen = console(stderr=False)
    everything = done.measured.everything
    for part in rivals.parts(done.rivals):
        screen.print(part)
    for part in tables.further(caches.further(everything), unevenness.several(everything)):
        screen.print(part)
    state = "Nothing had to be done again" if done.made == 0 else "Done"
    screen.print(f"{state}: {done.out}/results.csv, report.md, report.html")


def _show_directories(directories: Sequence[Path], as_json: bool) -> None:
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
