"""Ollama's Modelfiles: the exact grammar of its parser, and a writer that nothing can break out of.

What is written is parsed again by that grammar and must give back the same commands, so that no template, name or
license can add a line of its own. Source: ollama, `parser/parser.go`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ggufkit.core.errors import InputError

_WORDS = (
    "from",
    "license",
    "template",
    "system",
    "adapter",
    "draft",
    "renderer",
    "parser",
    "parameter",
    "message",
)
_COMMANDS = frozenset({*_WORDS, "requires"})
_PLAIN = re.compile(r"[A-Za-z0-9./_-]+")
_ROLES = ("system", "user", "assistant")
_BLANKS = " \t\r\n"


class ModelfileError(InputError):
    """A Modelfile that Ollama would not accept, or a value that none can hold."""


@dataclass(frozen=True)
class Command:
    """One instruction: `model` for FROM, the lower-case instruction, or the name of a PARAMETER."""

    name: str
    args: str


def parse(text: str) -> list[Command]:
    """Parse a Modelfile as Ollama does.

    Characters that Go does not call printable vanish, line breaks and blanks within a value excepted.

    Raises:
        ModelfileError: an unknown instruction, an open quote, or no FROM.
    """
    commands = list(_Parser(text.removeprefix("\ufeff")).commands())
    if not any(command.name == "model" for command in commands):
        raise ModelfileError("The Modelfile has no FROM line.")
    return commands


class _Parser:
    """A cursor over the text."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.line = 1

    def commands(self) -> Iterator[Command]:
        """Each instruction in turn."""
        while self.at < len(self.text):
            char = self.text[self.at]
            if char == "#":
                self.take(lambda c: c not in "\r\n")
            elif char in " \t\r\n":
                self.take(lambda c: c in " \t\r\n")
            else:
                yield self.command()

    def command(self) -> Command:
        """One instruction with its value."""
        word = self.word(str.isalpha).lower()
        if word not in _COMMANDS:
            raise ModelfileError(f"Line {self.line}: {word!r} is not an instruction of a Modelfile.")
        if word == "parameter":
            word = self.word(lambda c: c.isalnum() or c == "_")
        if word == "message":
            role = self.word(str.isalpha)
            if role not in _ROLES:
                raise ModelfileError(f"Line {self.line}: a message is from {', '.join(_ROLES)}, not {role!r}.")
            return Command("message", f"{role}: {self.value()}")
        return Command("model" if word == "from" else word, self.value())

    def word(self, belongs: Callable[[str], bool]) -> str:
        """ASCII characters of a kind, and the one blank behind them."""
        word = self.take(lambda c: c.isascii() and belongs(c))
        if not word or self.text[self.at : self.at + 1] not in (" ", "\t"):
            raise ModelfileError(f"Line {self.line}: an instruction is a word, a space and a value.")
        self.at += 1
        return word

    def value(self) -> str:
        """A value: to the end of the line, or through the line on which its quote ends."""
        kept, begin, end = list[str](), 0, 0  # without the blanks around it
        while self.at < len(self.text):
            char = self.text[self.at]
            if char in "\r\n" and _quote(kept, begin, end) is not None:
                break
            self.take_one()
            if char not in _BLANKS and _is_print(char):
                begin, end = begin if end else len(kept), len(kept) + 1
            if char in _BLANKS or _is_print(char):
                kept.append(char)
        quote = _quote(kept, begin, end)
        if quote is None:
            raise ModelfileError("The Modelfile ends inside a quoted value.")
        return "".join(kept[begin + len(quote) : end - len(quote)])

    def take(self, belongs: Callable[[str], bool]) -> str:
        """Characters while they belong."""
        start = self.at
        while self.at < len(self.text) and belongs(self.text[self.at]):
            self.take_one()
        return self.text[start : self.at]

    def take_one(self) -> None:
        """Step over one character."""
        self.line += self.text[self.at] in "\r\n"
        self.at += 1


def _is_print(char: str) -> bool:
    """Go's strconv.IsPrint: letters, marks, numbers, punctuation, symbols and the ASCII blank."""
    return char.isprintable()


def _quote(chars: list[str], begin: int, end: int) -> str | None:
    """What stands around a value between two places, "" for nothing; None while a quote is open."""
    opening = "".join(chars[begin : begin + 3])
    quote = opening if opening == '"""' else '"' if opening.startswith('"') else ""
    closed = end - begin >= 2 * len(quote) and "".join(chars[end - len(quote) : end]) == quote
    return quote if closed else None


@dataclass(frozen=True)
class Modelfile:
    """What `ollama create` reads.

    Args:
        base: path of the GGUF, relative to the Modelfile or absolute.
        parameters: names with values, in order; a name may come again, as `stop` does.
        comments: lines for the reader, at the top.
        projector, adapter: the paths of the GGUFs that read images or sound, and that change the model, likewise.
    """

    base: str
    template: str | None = None
    system: str | None = None
    parameters: tuple[tuple[str, str | int | float], ...] = ()
    license: str | None = None
    requires: str | None = None
    comments: tuple[str, ...] = ()
    projector: str | None = None
    adapter: str | None = None

    def commands(self) -> list[Command]:
        """The instructions, in the order in which they are written."""
        texts = (("template", self.template), ("system", self.system), ("license", self.license))
        return [
            Command("model", self.base),
            *([Command("model", self.projector)] if self.projector else []),
            *([Command("adapter", self.adapter)] if self.adapter else []),
            *([Command("requires", self.requires)] if self.requires else []),
            *(Command(name, _number(value)) for name, value in self.parameters),
            *(Command(name, text) for name, text in texts if text is not None),
        ]


def write(modelfile: Modelfile) -> str:
    """The text of a Modelfile.

    Raises:
        ModelfileError: a value that Ollama's grammar has no way to hold.
    """
    lines = [f"# {''.join(c for c in ' '.join(line.split()) if _is_print(c))}" for line in modelfile.comments]
    commands = modelfile.commands()
    text = "\n".join([*lines, *map(_written, commands)]) + "\n"
    if parse(text) != commands:
        raise ModelfileError(f"The Modelfile of {modelfile.base} cannot be read back as it was written.")
    return text


def _written(command: Command) -> str:
    """One instruction, its value quoted in the first way that reads back."""
    name = {"model": "FROM"}.get(command.name, command.name.upper())
    head = name if command.name == "model" or command.name in _COMMANDS else f"PARAMETER {command.name}"
    quotes = ("",) if _PLAIN.fullmatch(command.args) else ('"""', '"') if "\n" in command.args else ('"', '"""')
    for quote in quotes:
        line = f"{head} {quote}{command.args}{quote}"
        if _reads_back(line, command):
            return line
    raise ModelfileError(
        f"No Modelfile can hold this value of {head}: {command.args[:80]!r}.",
        hint='Ollama drops invisible characters, and takes """ at the end of a line for the end of the value.',
    )


def _reads_back(line: str, command: Command) -> bool:
    try:
        return list(_Parser(f"{line}\n").commands()) == [command]
    except ModelfileError:
        return False


def _number(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:.6g}" if isinstance(value, float) else str(value)
