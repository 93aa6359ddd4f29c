"""Values as people write them: lists, sizes, counts, percentages, names, paths. The command line and Python read alike.

What is a value of its kind already is taken as it is; for what is none, the message says how it is written.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ggufkit.core.errors import UsageError
from ggufkit.core.paths import user_path
from ggufkit.core.units import MOST_BYTES, parse_size

CHECKPOINT = "hf:"
"""What begins the name of a checkpoint where GGUFs are named."""
MOST = (1 << 31) - 1
"""llama.cpp's tools read no larger numbers."""


class Kind(Protocol):
    """How a value is written."""

    def read(self, given: Any) -> Any:
        """The value. Raises UsageError for what is none, with a message that ends without a full stop."""


def read(name: str, kind: Kind, given: Any) -> Any:
    """The value of an option, read as its kind is.

    Raises:
        UsageError: it is none; the message names the option.
    """
    try:
        return kind.read(given)
    except UsageError as error:
        raise UsageError(f"Invalid value for {name}: {error.message}.", hint=error.hint) from None


@dataclass(frozen=True)
class Names:
    """Names between commas, `q4_k_m,q8_0`, or several such texts; `empty` tells whether there may be none."""

    empty: bool = False

    def read(self, given: Any) -> tuple[str, ...]:
        """Split at commas; an empty list is a mistake."""
        names = tuple(part.strip() for text in _several(given) for part in str(text).split(",") if part.strip())
        if not names and not (self.empty and not isinstance(given, str)):
            raise UsageError("the list is empty")
        return names


@dataclass(frozen=True)
class SomeOf:
    """Some of a few names, between commas; upper case or lower does not matter."""

    names: tuple[str, ...]

    def read(self, given: Any) -> tuple[str, ...]:
        """Split at commas; each name once."""
        found = tuple(dict.fromkeys(name.lower() for name in Names(empty=True).read(given)))
        if odd := [name for name in found if name not in self.names]:
            raise UsageError(f"{odd[0]!r} is not one of {', '.join(map(repr, self.names))}")
        return found


@dataclass(frozen=True)
class Numbers:
    """Numbers from 0 between commas: `3,4,5`."""

    def read(self, given: Any) -> tuple[int, ...]:
        """Split at commas."""
        words = [part.strip() for text in _several(given) for part in str(text).split(",")]
        if odd := [word for word in words if not (word.isascii() and word.isdecimal()) or len(word) > 4]:
            raise UsageError(f"{odd[0]!r} is no number of a layer; write e.g. 20,21")
        return tuple(map(int, words))


@dataclass(frozen=True)
class Texts:
    """Texts that are given one by one, each as it is: `attn_v=q8_0`."""

    def read(self, given: Any) -> tuple[str, ...]:
        """One text, or several."""
        return tuple(map(str, _several(given)))


@dataclass(frozen=True)
class Evaluated:
    """What is evaluated: a GGUF, as a path; or a checkpoint, as a text: its directory, or `hf:` and what it is."""

    def read(self, given: Any) -> Path | str:
        """A path of a file that is there, or a text."""
        if isinstance(given, str) and given.startswith(CHECKPOINT):
            return given
        path = PATH.read(given)
        return str(path) if path.is_dir() else path


@dataclass(frozen=True)
class Size:
    """Bytes: `8GiB`, `100MB`, `1500000`; GB and GiB differ as they should."""

    def read(self, given: Any) -> int:
        """Read a number with a unit."""
        n_bytes = given if _is_whole(given) else parse_size(str(given))
        if n_bytes is None or n_bytes < 0:
            raise UsageError(f"{given!r} is not a size; write 8GiB or 100MB")
        if n_bytes > MOST_BYTES:
            raise UsageError(f"{given!r} is more than any disk or memory holds")
        return int(n_bytes)


@dataclass(frozen=True)
class Count:
    """A number from `minimum`, or a word that means None: `all`, `auto`."""

    word: str
    minimum: int = 1

    def read(self, given: Any) -> int | None:
        """Read the number or the word."""
        if given is None or str(given).lower() == self.word:
            return None
        number = _whole(given)
        if number is None or not self.minimum <= number <= MOST:
            message = f"{given!r} is neither a number from {self.minimum} to {MOST} nor {self.word!r}"
            raise UsageError(message)
        return number


@dataclass(frozen=True)
class Whole:
    """A whole number within limits, None for none."""

    minimum: int | None = None
    maximum: int | None = None

    def read(self, given: Any) -> int:
        """Read the number."""
        number = _whole(given)
        if number is None:
            raise UsageError(f"{given!r} is not a valid integer")
        if (self.minimum is not None and number < self.minimum) or (
            self.maximum is not None and number > self.maximum
        ):
            raise UsageError(f"{number} is not in the range {self._range}")
        return number

    @property
    def _range(self) -> str:
        low = "" if self.minimum is None else f"{self.minimum}<="
        return f"{low}x" + ("" if self.maximum is None else f"<={self.maximum}")


@dataclass(frozen=True)
class Wholes:
    """A whole number within limits, or several between commas: `512`, `512,4096`."""

    minimum: int
    maximum: int

    def read(self, given: Any) -> int | tuple[int, ...]:
        """One number as such; several in their order, each once."""
        one = Whole(self.minimum, self.maximum)
        words = [
            part for each in _several(given) for part in (each.split(",") if isinstance(each, str) else [each])
        ]
        found = tuple(dict.fromkeys(map(one.read, words)))
        if not found:
            raise UsageError("the list is empty")
        return found[0] if len(found) == 1 else found


@dataclass(frozen=True)
class Fraction:
    """A percentage, `2%`, or the fraction that it is, `0.02`: above 0 and below 1."""

    def read(self, given: Any) -> float:
        """Read a percentage or a fraction."""
        text = str(given).strip()
        try:
            number = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
        except ValueError:
            number = 0.0
        if not 0 < number < 1:
            raise UsageError(f"{given!r} is no percentage between 0 and 100; write 2% or 0.02")
        return number


@dataclass(frozen=True)
class Real:
    """A number within limits: `0.7`."""

    minimum: float = -math.inf
    maximum: float = math.inf

    def read(self, given: Any) -> float:
        """Read the number."""
        try:
            number = float(str(given).strip())
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise UsageError(f"{given!r} is no number")
        if not self.minimum <= number <= self.maximum:
            high = f"<={self.maximum:g}" if math.isfinite(self.maximum) else ""
            raise UsageError(f"{number:g} is not in the range {self.minimum:g}<=x{high}")
        return number


@dataclass(frozen=True)
class Choice:
    """One of a few names."""

    names: tuple[str, ...]

    def read(self, given: Any) -> str:
        """Find the name."""
        if given not in self.names:
            raise UsageError(f"{given!r} is not one of {', '.join(map(repr, self.names))}")
        return str(given)


@dataclass(frozen=True)
class Switch:
    """True or False."""

    def read(self, given: Any) -> bool:
        """Take it as it is."""
        if not isinstance(given, bool):
            raise UsageError(f"{given!r} is neither True nor False")
        return given


@dataclass(frozen=True)
class AnyText:
    """Any text; a path is one, too."""

    def read(self, given: Any) -> str:
        """Take it as it is."""
        if not isinstance(given, (str, os.PathLike)):
            raise UsageError(f"{given!r} is no text")
        return os.fspath(given)


@dataclass(frozen=True)
class Some:
    """Several values, of which there is one at least."""

    def read(self, given: Any) -> list[Any]:
        """Take them as they are."""
        if not given:
            raise UsageError("there is none")
        return list(given)


@dataclass(frozen=True)
class UserPath:
    """A path; `~` is the home. `file` and `directory` say what may be there, `exists` that it must."""

    file: bool = True
    directory: bool = True
    exists: bool = False

    def read(self, given: Any) -> Path:
        """Replace a leading `~`, and look what is there."""
        if not isinstance(given, (str, os.PathLike)):
            raise UsageError(f"{given!r} is no path")
        path = user_path(os.fspath(given))
        what = "Directory" if not self.file else "File" if not self.directory else "Path"
        if self.exists and not path.exists():
            raise UsageError(f"{what} {str(given)!r} does not exist")
        if not self.directory and path.is_dir():
            raise UsageError(f"File {str(given)!r} is a directory")
        if not self.file and path.is_file():
            raise UsageError(f"Directory {str(given)!r} is a file")
        return path


NAMES, SOME_NAMES, NUMBERS, TEXTS, SIZE, FRACTION, SWITCH, TEXT = (
    Names(), Names(empty=True), Numbers(), Texts(), Size(), Fraction(), Switch(), AnyText(),
)  # fmt: skip
EVALUATED = Evaluated()
PATH, FILE, DIRECTORY = UserPath(), UserPath(directory=False), UserPath(file=False, exists=True)


def _several(given: Any) -> Iterable[Any]:
    return given if isinstance(given, Iterable) and not isinstance(given, (str, os.PathLike)) else (given,)


def _is_whole(given: Any) -> bool:
    return isinstance(given, int) and not isinstance(given, bool)


def _whole(given: Any) -> int | None:
    """The number that a text or a number is; None for what is none."""
    text = str(given).strip()
    digits = text.removeprefix("-")
    usual = digits.isascii() and digits.isdecimal() and len(digits) <= 10 and not isinstance(given, bool)
    return int(text) if usual else None
