"""The command that makes many models at once."""

from __future__ import annotations

from typing import Any

import click
from rich.table import Table

from ggufkit.cli import completion, parameter_types, sweep_plan
from ggufkit.cli.options import grouped, json_option
from ggufkit.cli.sweep_table import watching
from ggufkit.cli.sweep_watch import detach, status_command, stop_command
from ggufkit.cli.terminal import console, emit, reporting, say
from ggufkit.commands import sweep
from ggufkit.commands.sweep import Asked
from ggufkit.core.errors import ToolError
from ggufkit.sweep.places import CSV, HTML, Places

QUEUES = {
    "slurm": "Slurm", "pbs": "PBS", "lsf": "LSF", "sge": "SGE", "oar": "OAR", "htcondor": "HTCondor",
}  # fmt: skip


_DETACH, _WORDS = "--detach", "ggufkit.sweep.words"


class _Sweep(click.Group):
    """A group whose first word is a file, unless it is one of its commands."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Let `run` be understood."""
        words = args if args and args[0] in self.commands else ["run", *args]
        ctx.meta[_WORDS] = [word for word in words if word != _DETACH]
        return super().parse_args(ctx, words)


def _queue_option(name: str, title: str) -> Any:
    return click.option(
        f"--{name}", "system", flag_value=name, default="", help=f"Workers are jobs of {title}, as FILE asks for."
    )


asked_options = grouped(
    "asked",
    lambda given: Asked(**given),
    click.argument("file", metavar="FILE", type=parameter_types.FILE, shell_complete=completion.sweeps),
    click.option("--profile", "profiles", multiple=True, metavar="NAME", shell_complete=completion.profiles,
                 help="Of FILE; may be repeated.  [default: all]"),
    click.option("--out", type=parameter_types.PATH, help="Output directory.  [default: as FILE says]"),
    click.option("--workers", type=click.IntRange(1, 512),
                 help="Workers on this machine.  [default: as FILE says, else one a GPU, or one]"),
    click.option("--scheduler", default="", metavar="URL", help="A Dask scheduler that is there: tcp://HOST:8786."),
    *(_queue_option(name, title) for name, title in QUEUES.items()),
    click.option("--store", default="", metavar="URL", help="Where files are for workers that do not see the directory: s3://…"),
    click.option("--force", is_flag=True, help="Make all anew."),
    click.option("--against", type=parameter_types.FILE, metavar="CSV", help="An earlier sweep.csv: what loses more now?"),
)  # fmt: skip


@click.group("sweep", cls=_Sweep)
def sweep_command() -> None:
    """Many models x types x variants, on this machine or on a cluster."""


@sweep_command.command("run")
@asked_options
@click.option(
    "--dry-run", is_flag=True, help="Show jobs, downloads, bytes and hours; write nothing, and fetch no weights."
)
@click.option(_DETACH, "detached", is_flag=True, help="Go on without this shell.")
@json_option
@click.pass_context
def run_command(ctx: click.Context, asked: Asked, dry_run: bool, detached: bool, as_json: bool) -> int:
    """Build all that FILE asks for, one job for each thing to make or to measure. `run` may be left out.

    The same command goes on from where it was stopped. `ggufkit sweep status FILE` tells from any shell how far it is,
    `ggufkit sweep stop FILE` stops it.

    \b
    Examples:
        ggufkit sweep sweep.yaml --dry-run
        ggufkit sweep sweep.yaml --workers 2
        ggufkit sweep sweep.yaml --slurm --profile quick
    """
    if dry_run:
        return _show_plan(asked, as_json)
    places = Places(sweep.read(asked)[0].out)
    if detached:
        return detach(ctx.meta[_WORDS], places, asked.out or asked.file)
    with watching(places) as hear:
        ended = sweep.sweep(asked, hear)
    if as_json:
        emit(sweep.rows_as_json(places))
    elif (places.out / HTML).exists():
        say(f"Results: {places.out / CSV}, {places.out / HTML}")
    return 0 if all(outcome.is_good for outcome in ended.values()) else ToolError.exit_code


def _show_plan(asked: Asked, as_json: bool) -> int:
    """What is to come; the exit code is that of the first build of which nothing can be known."""
    with reporting() as reporter:
        coming = sweep.foresee(asked, reporter)
    if as_json:
        import json
        from dataclasses import asdict

        emit(json.dumps(asdict(coming), indent=1) + "\n")
        return coming.total.exit_code
    screen = console(stderr=False)
    for part in sweep_plan.shown(coming):
        screen.print(part, soft_wrap=not isinstance(part, Table))
    return coming.total.exit_code


sweep_command.add_command(status_command)
sweep_command.add_command(stop_command)
