"""Options of measuring and choosing that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from ggufkit.cli import options

Command = TypeVar("Command", bound=Callable[..., Any])


class Fraction(click.ParamType[float]):
    """A percentage: `2%`, or the fraction that it is: `0.02`."""

    name = "percent"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read a percentage or a fraction, above 0 and below 1."""
        if isinstance(value, float):
            return value
        text = str(value).strip()
        try:
            number = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
        except ValueError:
            number = 0.0
        if not 0 < number < 1:
            self.fail(f"{value!r} is no precision; write 2% or 0.02", param, ctx)
        return number


def precision_option(command: Command) -> Command:
    """--precision."""
    return click.option(
        "--precision",
        type=Fraction(),
        metavar="PERCENT",
        help="Evaluate only until mean KL divergence is known to this, e.g. 2%.",
    )(command)


def scratch_option(command: Command) -> Command:
    """--scratch-limit."""
    return click.option(
        "--scratch-limit",
        type=options.SIZE,
        default="8GiB",
        show_default=True,
        help="The most disk that base logits may take.",
    )(command)


def fits_options(command: Command) -> Command:
    """--fits and --fits-ctx."""
    size = click.option("--fits", type=options.SIZE, help="Memory that you have, e.g. 6GiB: name the best file.")
    context = click.option(
        "--fits-ctx",
        type=click.IntRange(1),
        default=4096,
        show_default=True,
        help="Context in tokens to run with, for --fits.",
    )
    return size(context(command))
