"""Types of parameters, read as people write them: lists, sizes, counts, percentages, paths."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from ggufkit.core.paths import user_path
from ggufkit.core.units import MOST_BYTES, parse_size

MOST = (1 << 31) - 1
"""llama.cpp's tools read no larger numbers."""


class NameList(click.ParamType[tuple[str, ...]]):
    """A comma-separated list: `q4_k_m,q8_0`."""

    name = "list"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        """Split at commas; an empty list is a mistake."""
        if isinstance(value, tuple):
            return value
        names = tuple(part.strip() for part in str(value).split(",") if part.strip())
        if not names:
            self.fail("the list is empty", param, ctx)
        return names


class NumberList(click.ParamType[tuple[int, ...]]):
    """A comma-separated list of numbers from 0: `3,4,5`."""

    name = "numbers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """Split at commas."""
        if isinstance(value, tuple):
            return value
        words = [part.strip() for part in str(value).split(",")]
        if odd := [word for word in words if not (word.isascii() and word.isdecimal()) or len(word) > 4]:
            self.fail(f"{odd[0]!r} is no number of a layer; write e.g. 20,21", param, ctx)
        return tuple(map(int, words))


class UserPath(click.Path):
    """A path; `~` is the home also where the shell leaves it, as in `--out=~/models`."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Replace a leading `~`."""
        return super().convert(str(user_path(os.fsdecode(value))), param, ctx)


class Size(click.ParamType[int]):
    """A number of bytes: `8GiB`, `100MB`, `1500000`."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Read a number with a unit; GB and GiB differ as they should."""
        if isinstance(value, int):
            return value
        n_bytes = parse_size(str(value))
        if n_bytes is None:
            self.fail(f"{value!r} is not a size; write 8GiB or 100MB", param, ctx)
        if n_bytes > MOST_BYTES:
            self.fail(f"{value!r} is more than any disk or memory holds", param, ctx)
        return n_bytes


class Count(click.ParamType[int | None]):
    """A positive number, or a word that means None: `all`, `auto`."""

    def __init__(self, word: str, minimum: int = 1) -> None:
        self.name = f"N|{word}"
        self.word = word
        self.minimum = minimum

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | None:
        """Read the number or the word."""
        if value is None or isinstance(value, int) or str(value).lower() == self.word:
            return value if isinstance(value, int) else None
        digits = str(value)
        if not digits.isdecimal() or len(digits) > 10 or not self.minimum <= int(digits) <= MOST:
            self.fail(f"{value!r} is neither a number from {self.minimum} to {MOST} nor {self.word!r}", param, ctx)
        return int(digits)


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
            self.fail(f"{value!r} is not a precision; write 2% or 0.02", param, ctx)
        return number


NAMES = NameList()
NUMBERS = NumberList()
SIZE = Size()
PATH = UserPath(path_type=Path)
FILE = UserPath(path_type=Path, dir_okay=False)
DIRECTORY = UserPath(path_type=Path, exists=True, file_okay=False)
