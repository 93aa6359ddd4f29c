"""mkdocs hook: `<!-- command: NAME -->` becomes that command's help, usage, arguments and options, as click has them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

import click

from ggufkit.cli import SUMMARIES, cli

_MARKER = re.compile(r"<!-- command: (\w+) -->")
_DEFAULT = re.compile(r"\s*\[default: (.*)\]$")
_ESCAPED = {"|": "&#124;", "<": "&lt;", ">": "&gt;", "*": "&#42;", "_": "&#95;", "[": "&#91;"}


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by mkdocs for each page. An unknown command's name is an error."""
    summaries = "\n".join(f"| [`ggufkit {name}`]({name}.md) | {_text(said)} |" for name, said in SUMMARIES.items())
    markdown = markdown.replace("<!-- commands -->", f"| command | |\n| --- | --- |\n{summaries}")
    return _MARKER.sub(lambda found: describe(found[1]), markdown)


def describe(name: str) -> str:
    """One command and its subcommands as Markdown."""
    command = cli.get_command(click.Context(cli, info_name="ggufkit"), name)
    if command is None:
        raise click.ClickException(f"There is no command {name!r}; a page of the reference names it.")
    return "\n".join(_lines(command, click.Context(cli, info_name="ggufkit"), "##"))


def _lines(command: click.Command, parent: click.Context, level: str) -> Iterator[str]:
    ctx = click.Context(command, info_name=command.name, parent=parent)
    yield _help(command.help or "")
    if isinstance(command, click.Group):
        for inner in command.commands.values():
            yield f"\n{level} {ctx.command_path} {inner.name}\n"
            yield from _lines(inner, ctx, level + "#")
        return
    yield f"\n```text\n{' '.join([ctx.command_path, *command.collect_usage_pieces(ctx)])}\n```\n"
    shown = [p for p in command.params if isinstance(p, click.Option) and not p.hidden]
    if not shown:
        return
    yield "| option | default | meaning |\n| --- | --- | --- |"
    yield from (_row(option, ctx) for option in shown)


def _help(text: str) -> str:
    """Click's help text: a paragraph that starts with \\b is an example, its first line what introduces it."""
    paragraphs = inspect.cleandoc(text).split("\n\n")
    return "\n\n".join(_example(p) if p.startswith("\b\n") else _text(p) for p in paragraphs)


def _example(paragraph: str) -> str:
    first, *rest = paragraph.removeprefix("\b\n").splitlines()
    return f"{_text(first)}\n\n```sh\n" + "\n".join(line.removeprefix("    ") for line in rest) + "\n```"


def _row(option: click.Option, ctx: click.Context) -> str:
    said = option.help or ""
    written = _DEFAULT.search(said)  # where the help words the default itself
    default = written[1] if written else option.get_help_extra(ctx).get("default", "")
    meaning = _DEFAULT.sub("", said) + (" Required." if option.required else "")
    return f"| {_names(option)} | {_text(default)} | {_text(meaning)}{_choices(option)} |"


def _names(option: click.Option) -> str:
    value = "" if option.is_flag else f" {option.metavar or _value(option.type.name)}"
    names = " / ".join([*option.opts, *option.secondary_opts])
    return f"<code>{_text(names + value)}</code>"


def _value(type_name: str) -> str:
    """`N|all` says it itself; other types are named in capitals."""
    words = {"choice": "NAME", "text": "TEXT", "integer": "N", "integer range": "N", "float range": "X"}
    return words.get(type_name, type_name if "|" in type_name else type_name.upper())


def _choices(option: click.Option) -> str:
    if not isinstance(option.type, click.Choice):
        return ""
    return " One of " + ", ".join(f"`{choice}`" for choice in option.type.choices) + "."


def _text(text: str) -> str:
    """Plain text inside Markdown and its tables; what stands in backquotes stays code."""
    parts = re.split(r"(`[^`]+`)", text)
    return "".join(p if p.startswith("`") else "".join(_ESCAPED.get(c, c) for c in p) for p in parts)
