"""What a prompt holds besides literal text. Each kind of placeholder is one character of the learned text.

The characters are Unicode noncharacters, which no text interchanged may contain, so that learned prompts are plain
strings: compared, cut and factored by the character.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field

from ggufkit.core.errors import InputError

TRANSFORMS: dict[str, Callable[[str], str]] = {
    "": lambda text: text,
    "trim": str.strip,
    "trimLeft": str.lstrip,
    "trimRight": str.rstrip,
    "trimLines": lambda text: text.strip("\n"),
    "trimLeftLines": lambda text: text.lstrip("\n"),
    "trimRightLines": lambda text: text.rstrip("\n"),
    "jsonString": lambda text: json.dumps(text, ensure_ascii=False)[1:-1],
}
"""What templates do to a content, by the name of the Go snippet that does the same."""


class UnlearnableTemplate(InputError):
    """A chat template whose behaviour the Go templates that ggufkit writes cannot express."""


class MessagesOutOfOrder(UnlearnableTemplate):
    """Messages do not appear one after the other."""


@dataclass(frozen=True)
class Content:
    """The content of the message itself, behind a `lead` of white space that is trimmed with it."""

    transform: str = ""
    lead: str = ""


@dataclass(frozen=True)
class System:
    """The content of the system message, away from its place."""

    transform: str = ""


@dataclass(frozen=True)
class Tools:
    """The list of tools as JSON: whole `tool`s or their `function`s, and what stands between two of them."""

    form: str
    indent: int | None
    separator: str


@dataclass(frozen=True)
class Calls:
    """The tool calls of a message: `open` name `middle` arguments `close`, `separator` between two of them.

    `separator` is None while only single calls have been seen.
    """

    middle: str
    separator: str | None
    indent: int | None
    open: str = ""
    close: str = ""


@dataclass(frozen=True)
class Today:
    """Today's date in a strftime format."""

    format: str


@dataclass(frozen=True)
class Close:
    """Where the end of a turn begins: a prompt that is to be continued stops here."""


Placeholder = Content | System | Tools | Calls | Today | Close

_FIRST, _COUNT = 0xFDD0, 32


@dataclass
class Placeholders:
    """The placeholders of one template and their characters."""

    known: list[Placeholder] = field(default_factory=lambda: [Close()])

    def char(self, placeholder: Placeholder) -> str:
        """The character that stands for a placeholder."""
        if placeholder not in self.known:
            if len(self.known) == _COUNT:
                raise UnlearnableTemplate("The chat template inserts values in too many ways to follow.")
            self.known.append(placeholder)
        return chr(_FIRST + self.known.index(placeholder))

    def __getitem__(self, char: str) -> Placeholder | None:
        """The placeholder that a character stands for; None for literal text."""
        index = ord(char) - _FIRST
        return self.known[index] if 0 <= index < len(self.known) else None

    def without(self, text: str, *kinds: type[Placeholder]) -> str:
        """The text with the placeholders of some kinds left out."""
        return "".join(c for c in text if not isinstance(self[c], kinds))


def is_placeholder(char: str) -> bool:
    """Whether a character is one that placeholders use."""
    return _FIRST <= ord(char) < _FIRST + _COUNT
