"""Types of parameters for click: what `core.values` reads, and paths. Their completion and their help are click's."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from ggufkit.core import values
from ggufkit.core.errors import UsageError
from ggufkit.core.paths import user_path
from ggufkit.core.values import MOST
from ggufkit.llama.adapter import Scaled

__all__ = [
    "DIRECTORY",
    "EVALUATED",
    "FILE",
    "MOST",
    "NAMES",
    "NUMBERS",
    "PATH",
    "SIZE",
    "Count",
    "NameList",
    "UserPath",
    "adapters",
    "of_kind",
]


class Written(click.ParamType[Any]):
    """A value that is read by its kind."""

    def __init__(self, kind: values.Kind, name: str) -> None:
        self.kind = kind
        self.name = name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read it; what is none is a mistake in the command line."""
        try:
            return self.kind.read(value)
        except UsageError as error:
            self.fail(error.message, param, ctx)


class NameList(Written):
    """A comma-separated list: `q4_k_m,q8_0`."""

    def __init__(self) -> None:
        super().__init__(values.SOME_NAMES, "list")


class Count(Written):
    """A positive number, or a word that means None: `all`, `auto`."""

    def __init__(self, word: str, minimum: int = 1) -> None:
        super().__init__(values.Count(word, minimum), f"N|{word}")


class UserPath(click.Path):
    """A path; `~` is the home also where the shell leaves it, as in `--out=~/models`."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Replace a leading `~`."""
        return super().convert(str(user_path(os.fsdecode(value))), param, ctx)


def of_kind(kind: values.Kind) -> click.ParamType[Any]:
    """The parameter type of a kind of value."""
    match kind:
        case values.Choice(names):
            return click.Choice(list(names))
        case values.Whole(None, None):
            return click.INT
        case values.Whole(low, high):
            return click.IntRange(low, high)
        case values.Count(word, minimum):
            return Count(word, minimum)
        case values.UserPath(file, directory, exists):
            return UserPath(path_type=Path, file_okay=file, dir_okay=directory, exists=exists)
        case values.AnyText() | values.Texts():
            return click.STRING
    return Written(kind, _NAMES[type(kind)])


class Files(Written):
    """A file or a directory, read by its kind."""

    def __init__(self, kind: values.Kind) -> None:
        super().__init__(kind, "file")

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:  # noqa: ARG002 - click's signature
        """Files and directories."""
        return [CompletionItem(incomplete, type="file")]


def adapters(option: str, name: str, said: str) -> Callable[[Any], Any]:
    """An option that names files that change a model."""
    return click.option(option, name, type=Files(Scaled()), multiple=True, metavar="FILE[=SCALE]", help=said)


_NAMES = {
    values.Names: "list", values.SomeOf: "list", values.Numbers: "numbers", values.Wholes: "numbers", values.Size: "size",
    values.Fraction: "percent",
}  # fmt: skip

EVALUATED = Files(values.EVALUATED)
NAMES, NUMBERS, SIZE = NameList(), of_kind(values.NUMBERS), of_kind(values.SIZE)
PATH, FILE, DIRECTORY = of_kind(values.PATH), of_kind(values.FILE), of_kind(values.DIRECTORY)
