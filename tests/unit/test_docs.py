"""What the documentation promises is there, and what is there is in the documentation."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import click
import pytest

from ggufkit.cli import COMMANDS, SUMMARIES, cli
from ggufkit.core import errors

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
REFERENCE = DOCS / "reference"
PAGES = [ROOT / "README.md", ROOT / "README.zh-CN.md", *sorted(DOCS.rglob("*.md"))]


def command(name: str) -> click.Command:
    found = cli.get_command(click.Context(cli), name)
    assert found is not None
    return found


def options_of(name: str) -> set[str]:
    """All options of a command, those of its subcommands included."""
    found = command(name)
    inner = found.commands.values() if isinstance(found, click.Group) else [found]
    return {option for sub in inner for p in sub.params for option in (*p.opts, *p.secondary_opts)}


def options_in(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text))


def page(name: str) -> str:
    return (REFERENCE / f"{name}.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def hook() -> ModuleType:
    """What makes the reference from click while the site is built."""
    spec = importlib.util.spec_from_file_location("commands", DOCS / "hooks" / "commands.py")
    assert spec is not None and spec.loader is not None  # noqa: PT018 - for mypy; neither can be without the other
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_command_has_a_page_and_a_summary() -> None:
    pages = re.findall(r"(?m)^<!-- command: (\w+) -->$", "\n".join(map(page, COMMANDS)))
    assert sorted(pages) == sorted(COMMANDS) == sorted(SUMMARIES)
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert all(f"- reference/{name}.md" in navigation for name in COMMANDS)


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
def test_the_reference_has_every_option_with_its_default(name: str, hook: ModuleType) -> None:
    text = hook.on_page_markdown(page(name))
    found = command(name)
    for sub in found.commands.values() if isinstance(found, click.Group) else [found]:
        for option in sub.params:
            if isinstance(option, click.Option) and not option.hidden:
                (row,) = {line for line in text.splitlines() if line.startswith(f"| <code>{option.opts[0]}") and
                          re.match(rf"\| <code>{option.opts[0]}[ <]", line) and _plain(option.help) in line}  # fmt: skip
                assert (
                    not isinstance(option.default, (int, float))
                    or option.is_flag
                    or f"| {option.default} |" in row
                )


def _plain(text: str | None) -> str:
    """The beginning of a help text, up to what Markdown would have escaped."""
    return re.split(r"[|<>*_\[]|  ", text or "")[0].strip()


@pytest.mark.parametrize("name", COMMANDS)
def test_the_options_that_the_reference_speaks_of_exist(name: str) -> None:
    assert options_in(page(name)) <= options_of(name) | {"--debug", "--help"}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_command_lines_are_real(path: Path) -> None:
    for block in re.findall(r"(?ms)^```(?:sh)?\n(.*?)^```", path.read_text(encoding="utf-8")):
        for line in re.sub(r"\\\n", " ", block).splitlines():
            typed = re.match(r"(?:\$ )?ggufkit (\w+)([^#]*)", line)
            if typed is not None:
                assert typed[1] in COMMANDS, line
                assert options_in(typed[2]) <= options_of(typed[1]) | {"--debug", "--help"}, line


@pytest.mark.parametrize("path", PAGES[:2], ids=lambda path: path.name)
def test_the_readme_points_to_what_is_there(path: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)", path.read_text(encoding="utf-8"))
    local = [target for target in targets if "://" not in target]
    assert len(local) > 5
    assert [target for target in local if not (ROOT / target).exists()] == []


def test_every_exit_code_is_explained() -> None:
    classes = [e for e in vars(errors).values() if isinstance(e, type) and issubclass(e, errors.GgufkitError)]
    explained = {int(code) for code in re.findall(r"(?m)^\| (\d+) \|", page("exit-codes"))}
    assert explained == {0, *(e.exit_code for e in classes)}
