"""What command functions share: options that reach them as one object."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])
Decorator = Callable[[Command], Command]


def _be_quiet(ctx: click.Context, _param: click.Parameter, wanted: bool) -> None:
    ctx.meta[QUIETLY] = wanted


QUIETLY = "ggufkit.quietly"
"""Where a context holds whether progress is left out."""
QUIET = click.Option(["-q", "--quiet"], is_flag=True, expose_value=False, callback=_be_quiet,
                     help="Leave out progress and remarks; warnings and errors are said.")  # fmt: skip
"""Of every command."""


def grouped(name: str, make: Callable[[dict[str, Any]], Any], *options: Decorator[Any]) -> Decorator[Any]:
    """Parameters that reach a command as one object.

    Args:
        name: the object's, as a parameter of the command function.
        make: the object from the parameters' values by their names.
        options: decorators of click, in the order of the help.
    """

    def decorate(command: Command) -> Any:
        declared = _apply(options, lambda: None).__click_params__
        names = list(dict.fromkeys(parameter.name for parameter in declared))  # several flags may set one

        @functools.wraps(command)
        def gather(**given: Any) -> Any:
            values = {own: given.pop(own) for own in names}
            return command(**{name: make(values)}, **given)

        return _apply(options, gather)

    return decorate


def _apply(options: tuple[Decorator[Any], ...], command: Any) -> Any:
    for option in reversed(options):
        command = option(command)
    return command


json_option = click.option(
    "--json", "as_json", is_flag=True, help="Results as JSON on stdout, all else on stderr."
)
