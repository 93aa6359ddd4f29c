"""What the README promises is there, and what is there is in the README."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from ggufkit.cli import COMMANDS, SUMMARIES, cli

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def command(name: str) -> click.Command:
    found = cli.get_command(click.Context(cli), name)
    assert found is not None
    return found


def test_every_command_has_a_section_and_a_summary() -> None:
    sections = re.findall(r"(?m)^### ggufkit (\S+)$", README)
    assert sorted(sections) == sorted(COMMANDS) == sorted(SUMMARIES)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_is_written(name: str) -> None:
    found = command(name)
    assert found.help, f"{name} has no help"
    for parameter in found.params:
        if isinstance(parameter, click.Option) and not parameter.hidden:
            assert parameter.help, f"{name} {parameter.name} has no help"


@pytest.mark.parametrize("name", COMMANDS)
def test_help_fits_a_terminal(name: str) -> None:
    text = command(name).get_help(click.Context(command(name), info_name=f"ggufkit {name}", terminal_width=80))
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize("name", COMMANDS)
def test_the_readme_s_options_exist(name: str) -> None:
    section = README.split(f"### ggufkit {name}\n")[1].split("\n### ")[0].split("\n## ")[0]
    known = {option for p in _all_parameters(command(name)) for option in (*p.opts, *p.secondary_opts)}
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", section))
    if name == "build":
        missing = {o for o in known if o.startswith("--")} - named - _UNLISTED
        assert not missing, f"options of build that the README lacks: {missing}"
    assert named <= known | {"--debug", "--help"}


_UNLISTED = {"--pre", "--allow-token-mismatch", "--force-toolchain", "--allow-requantize", "--bench-reps"}


def _all_parameters(found: click.Command) -> list[click.Parameter]:
    if isinstance(found, click.Group):
        return [p for sub in found.commands.values() for p in sub.params]
    return found.params
