"""What is asked of a sweep from another shell: how far it is, and that it stops; and to go on without a shell."""

from __future__ import annotations

import itertools
import json
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import click

from ggufkit.cli import options, parameter_types, sweep_table
from ggufkit.cli.terminal import console, emit, say
from ggufkit.core import process
from ggufkit.core.errors import BusyError
from ggufkit.sweep import watch
from ggufkit.sweep.places import Places
from ggufkit.sweep.watch import Seen

_FILE = click.argument("file", metavar="FILE", type=parameter_types.PATH)
_OUT = click.option("--out", type=parameter_types.PATH, help="Where its results go, if not where FILE says.")
_WAIT_S, _EVERY_S = 60.0, 0.2


def places_of(file: Path, out: Path | None) -> Places:
    """Where a sweep keeps what is its own; FILE may be its output directory, too. Raises InputError."""
    if out is not None or file.is_dir():
        return Places(out or file)
    from ggufkit.sweep import sweep_file

    return Places(sweep_file.read(file).out)


@click.command("status")
@_FILE
@_OUT
@options.json_option
def status_command(file: Path, out: Path | None, as_json: bool) -> None:
    """Say how far the sweep of FILE is, from any shell that sees its directory: while it runs, and after it ended.

    FILE may be the sweep's output directory, too.

    \b
    Example:
        ggufkit sweep status sweep.yaml
    """
    seen = watch.look(places_of(file, out))
    if as_json:
        emit(json.dumps(_as_json(seen), indent=1) + "\n")
        return
    screen = console(stderr=False)
    say(seen.words)
    drawn = sweep_table.parts(seen.board, seen.now, min(screen.width, sweep_table.WIDTH))
    for part in itertools.chain(drawn, sweep_table.closing(seen.board, seen.places)):
        screen.print(part)


def _as_json(seen: Seen) -> dict[str, object]:
    board = seen.board
    models = {
        line.cell: {
            stage: {"total": tally.total, "running": tally.running, **{k: v for k, v in tally.ended.items() if v}}
            for stage, tally in line.stages.items()
        }
        for line in board.lines
    }
    failures = [{"job": o.job, "message": o.message, "hint": o.hint, "worker": o.worker} for o in board.failures]
    return {
        "state": seen.state,
        "host": board.driver.host,
        "pid": board.driver.pid,
        "dashboard": board.driver.dashboard,
        "seconds": max(seen.now - board.started, 0.0),
        "seconds_left": board.seconds_left(seen.now) if seen.state == "running" else None,
        "running": [{"job": one.job, "worker": one.worker} for one in board.running],
        "models": models,
        "warnings": [{"text": text, "jobs": [job for job in jobs if job]} for text, jobs in board.warned.items()],
        "failures": failures,
    }


@click.command("stop")
@_FILE
@_OUT
@click.option("--wait", "seconds", type=click.FloatRange(min=0), default=_WAIT_S, show_default=True,
              help="Seconds to wait until it has ended.")  # fmt: skip
def stop_command(file: Path, out: Path | None, seconds: float) -> None:
    """Ask the sweep of FILE to stop, wherever it runs: as Ctrl-C does there. What is finished stays.

    \b
    Example:
        ggufkit sweep stop sweep.yaml
    """
    places = places_of(file, out)
    if watch.look(places).state != "running":
        say("Nothing is to be stopped: the sweep is not at work.")
        return
    watch.ask_to_stop(places)
    if watch.wait_for_end(places, seconds):
        say("Stopped. What was finished is kept; the same command goes on from there.")
    else:
        say(f"It was asked to stop, and has not ended after {seconds:g} s: it will.")


def detach(arguments: Sequence[str], places: Places, known_by: Path) -> int:
    """Start a sweep that goes on without this shell, and wait until it is at work.

    Args:
        arguments: of `ggufkit sweep`, without --detach.
        known_by: what `status` and `stop` are to be given.

    Returns:
        The exit code: that of the sweep where it has ended already.

    Raises:
        BusyError: one is at work there.
    """
    if watch.is_at_work(places):
        raise BusyError(f"Another sweep is at work in {places.out}.", hint="Stop it with `ggufkit sweep stop`.")
    before, said = watch.size_of(places.journal), watch.size_of(places.said)
    started = process.detach([sys.executable, "-m", "ggufkit", "sweep", *arguments], places.said)
    while started.poll() is None and not watch.has_begun(places, before):
        time.sleep(_EVERY_S)
    if started.poll() is not None:
        for line in places.said.read_bytes()[said:].decode(errors="replace").splitlines():
            say(line, err=True)
        return started.returncode
    say(f"The sweep is at work, process {started.pid}; what it says: {places.said}")
    name = shlex.quote(str(known_by))
    say(f"How far it is: ggufkit sweep status {name}")
    say(f"To stop it: ggufkit sweep stop {name}")
    return 0
