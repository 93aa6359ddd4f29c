"""What a shell may complete: aliases, types, variants, and files where they may stand."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import click
from click.shell_completion import CompletionItem

from ggufkit.core import variants
from ggufkit.core.errors import GgufkitError
from ggufkit.hub import names
from ggufkit.llama import quants, toolchain
from ggufkit.texts import corpus
from ggufkit.texts.tasks.known import TITLES

_FILE = "file"


def models(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Aliases, files and directories."""
    return [*_of((alias.name for alias in names.aliases()), incomplete), CompletionItem(incomplete, type=_FILE)]


def texts(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Texts that are known by a name, and files."""
    return [*_of(corpus.NAMES, incomplete), CompletionItem(incomplete, type=_FILE)]


def tasks(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Tasks, the last of a list, and files."""
    return [*_last_of(TITLES, incomplete), CompletionItem(incomplete, type=_FILE)]


def types(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Types of this machine's llama-quantize, the last of a list; those of tensors where there is none yet."""
    from ggufkit.steps.quantize import known_types

    try:
        tools = toolchain.locate("cpu")
        known = [kind.name for kind in quants.usable(known_types(tools))] if tools is not None else []
    except GgufkitError:
        known = []
    return _last_of((name.lower() for name in known or quants.TENSOR_TYPES), incomplete)


def profiles(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Profiles of the sweep file that is named before."""
    from ggufkit.sweep import sweep_file

    named = [ctx.params.get("file"), *ctx.args]  # behind an option without its value nothing is a parameter yet
    try:
        spec = sweep_file.read(next(Path(word) for word in named if word and Path(word).is_file()))
    except (GgufkitError, StopIteration):
        return []
    return _of((profile.name for profile in spec.profiles if profile.name), incomplete)


def sweeps(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Files, and what else may stand in their place."""
    group = ctx.parent.command if ctx.parent is not None else None
    other = [name for name in group.commands if name != ctx.info_name] if isinstance(group, click.Group) else []
    return [*_of(other, incomplete), CompletionItem(incomplete, type=_FILE)]


def tensor_types(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Types of tensors, the last of a list."""
    return _last_of((name.lower() for name in quants.TENSOR_TYPES), incomplete)


def some_variants(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Variants, the last of a list."""
    return _last_of(variants.names(), incomplete)


def _last_of(known: Iterable[str], incomplete: str) -> list[CompletionItem]:
    """Names that may end a list between commas."""
    before, comma, last = incomplete.rpartition(",")
    there = {name.strip().lower() for name in before.split(",")}
    fitting = [name for name in known if name.startswith(last.lower()) and name not in there]
    return [CompletionItem(f"{before}{comma}{name}") for name in fitting]


def _of(known: Iterable[str], incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(name) for name in known if name.startswith(incomplete)]
