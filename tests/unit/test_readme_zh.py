"""The Chinese pages keep step with the English ones: the same commands, the same options, nothing invented."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from ggufkit.cli import COMMANDS, cli

ROOT = Path(__file__).resolve().parents[2]


def read(*parts: str) -> str:
    return ROOT.joinpath(*parts).read_text(encoding="utf-8")


ENGLISH, CHINESE = read("README.md"), read("README.zh-CN.md")
CHINESE_COMMANDS = read("docs", "zh", "commands.md")


def sections(text: str) -> dict[str, str]:
    """The text of each command's section."""
    found = re.split(r"(?m)^## ggufkit (\S+)$", text)
    return {name: body.split("\n## ")[0] for name, body in zip(found[1::2], found[2::2], strict=True)}


def options(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text))


def known(name: str) -> set[str]:
    found = cli.get_command(click.Context(cli), name)
    assert found is not None
    inner = found.commands.values() if isinstance(found, click.Group) else [found]
    return {option for sub in inner for p in sub.params for option in (*p.opts, *p.secondary_opts)}


def test_the_same_commands() -> None:
    assert sorted(sections(CHINESE_COMMANDS)) == sorted(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_same_options(name: str) -> None:
    english = options(read("docs", "reference", f"{name}.md"))
    missing = english - options(sections(CHINESE_COMMANDS)[name])
    assert not missing, f"docs/zh/commands.md does not name {sorted(missing)} of {name}"


_UNLISTED = {"--pre", "--allow-token-mismatch", "--force-toolchain", "--allow-requantize", "--bench-reps"}


def test_every_option_of_build() -> None:
    everything = {option for option in known("build") if option.startswith("--")}
    assert everything - options(sections(CHINESE_COMMANDS)["build"]) <= _UNLISTED


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_exists(name: str) -> None:
    assert options(sections(CHINESE_COMMANDS)[name]) <= known(name) | {"--debug", "--help"}


def test_the_same_exit_codes_and_environment() -> None:
    def codes(text: str) -> list[str]:
        return re.findall(r"(?m)^\| (\d+) \|", text)

    def variables(text: str) -> set[str]:
        return set(re.findall(r"\b(?:GGUFKIT|HF|MODELSCOPE|CUDA)_[A-Z_]+\b", text))

    assert codes(CHINESE_COMMANDS) == codes(read("docs", "reference", "exit-codes.md"))
    assert variables(read("docs", "reference", "environment.md")) <= variables(CHINESE_COMMANDS)
    assert variables(ENGLISH) <= variables(CHINESE)


@pytest.mark.parametrize(
    "said", ["hf-mirror.com", "ms:", ".arrow", "AutoAWQ", "q8_0.gguf F16", "global.index-url"]
)
def test_what_chinese_users_need_is_said(said: str) -> None:
    assert said in CHINESE + read("docs", "zh", "pitfalls.md")


@pytest.mark.parametrize(
    "said", ["GGUFKIT_CACHE", "HF_HOME", "MODELSCOPE_CACHE", "HF_ENDPOINT", "global.index-url", "ollama run"]
)
def test_the_walk_through_says_what_a_rented_machine_needs(said: str) -> None:
    assert said in read("docs", "zh", "rented-gpu.md")


def test_each_points_to_the_other() -> None:
    assert "(README.md)" in CHINESE
    assert "(README.zh-CN.md)" in ENGLISH
