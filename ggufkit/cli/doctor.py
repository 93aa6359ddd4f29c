"""The command that says what is missing on this machine: doctor."""

from __future__ import annotations

import click

from ggufkit import doctor
from ggufkit.cli import options
from ggufkit.cli.terminal import console, emit, words


@click.command("doctor")
@options.json_option
def doctor_command(as_json: bool) -> None:
    """Say what is missing on this machine, and the command that fixes it. Exit code 1 if something needed is."""
    findings = doctor.examine()
    if as_json:
        import json
        from dataclasses import asdict

        emit(json.dumps([asdict(f) for f in findings], indent=1) + "\n")
    else:
        screen = console(stderr=False)
        for finding in findings:
            mark = ("✓", "green") if finding.ok else ("✗", "red") if finding.needed else ("–", "yellow")
            screen.print(words(mark, f" {finding.what}: {finding.state}"))
            if finding.fix and not finding.ok:
                screen.print(f"    {finding.fix}", soft_wrap=True)
    if not all(f.ok or not f.needed for f in findings):
        raise click.exceptions.Exit(1)
