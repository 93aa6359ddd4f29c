"""The Chinese README keeps step with the English one: the same commands, the same options, nothing invented."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from ggufkit.cli import COMMANDS, cli

ROOT = Path(__file__).resolve().parents[2]
ENGLISH = (ROOT / "README.md").read_text(encoding="utf-8")
CHINESE = (ROOT / "README.zh-CN.md").read_text(encoding="utf-8")


def sections(text: str) -> dict[str, str]:
    """The text of each command's section."""
    found = re.split(r"(?m)^### ggufkit (\S+)$", text)
    return {name: body.split("\n## ")[0] for name, body in zip(found[1::2], found[2::2], strict=True)}


def options(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text))


def known(name: str) -> set[str]:
    found = cli.get_command(click.Context(cli), name)
    assert found is not None
    inner = found.commands.values() if isinstance(found, click.Group) else [found]
    return {option for sub in inner for p in sub.params for option in (*p.opts, *p.secondary_opts)}


def test_the_same_commands() -> None:
    missing = sections(ENGLISH).keys() - sections(CHINESE).keys()
    assert not missing, f"README.zh-CN.md lacks the sections of {sorted(missing)}"
    assert sections(CHINESE).keys() <= set(COMMANDS)


@pytest.mark.parametrize("name", sections(ENGLISH))
def test_the_same_options(name: str) -> None:
    missing = options(sections(ENGLISH)[name]) - options(sections(CHINESE)[name])
    assert not missing, f"README.zh-CN.md does not name {sorted(missing)} of {name}"


@pytest.mark.parametrize("name", sections(CHINESE))
def test_every_option_exists(name: str) -> None:
    assert options(sections(CHINESE)[name]) <= known(name) | {"--debug", "--help"}


def test_the_same_exit_codes_and_environment() -> None:
    def codes(text: str) -> list[str]:
        return re.findall(r"(?m)^\| (\d+) \|", text)

    def variables(text: str) -> set[str]:
        return set(re.findall(r"\b(?:GGUFKIT|HF|MODELSCOPE|CUDA)_[A-Z_]+\b", text))

    assert codes(CHINESE) == codes(ENGLISH)
    assert variables(ENGLISH) <= variables(CHINESE)


@pytest.mark.parametrize(
    "said", ["hf-mirror.com", "ms:", ".arrow", "AutoAWQ", "q8_0.gguf F16", "global.index-url"]
)
def test_what_chinese_users_need_is_said(said: str) -> None:
    assert said in CHINESE


def test_each_points_to_the_other() -> None:
    assert "(README.md)" in CHINESE
