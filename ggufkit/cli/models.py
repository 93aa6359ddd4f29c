"""The command that lists the aliases: models."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from ggufkit.cli import options
from ggufkit.cli.terminal import emit, say


@click.command("models")
@click.argument("words", metavar="[FILTER]", nargs=-1)
@options.json_option
def models_command(words: tuple[str, ...], as_json: bool) -> None:
    """The aliases, and what each stands for on both hubs.

    \b
    Examples:
        ggufkit models
        ggufkit models qwen3 base
    """
    from ggufkit.hub.names import matching

    found = matching(" ".join(words))
    if as_json:
        emit(json.dumps([asdict(alias) for alias in found], indent=1) + "\n")
        return
    if not found:
        say(f"No alias matches {' '.join(words)!r}. Any OWNER/NAME of a hub works too.")
    width = max((len(alias.name) for alias in found), default=0)
    for alias in found:
        say(f"{alias.name:<{width}}  {_count(alias.n_params):>6}  {alias.architecture}")
        there = "" if alias.modelscope is None else f"   ms:{alias.modelscope}"
        say(f"{'':<{width}}          {alias.huggingface}{there}")


def _count(n_params: int) -> str:
    return f"{n_params / 1e9:.3g}B" if n_params >= 1e9 else f"{n_params / 1e6:.0f}M"
