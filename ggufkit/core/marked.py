"""YAML that a person wrote, with the line and the column of everything in it: a fault is shown where it stands.

As in `yamlfile`, nothing refers to anything else, so that a few lines cannot stand for millions of values.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ggufkit.core.errors import InputError
from ggufkit.core.yamlfile import loader_class

if TYPE_CHECKING:
    import yaml

LIMIT_BYTES = 16 << 20
"""Room for a hundred thousand models."""
_MOST_DEEP = 20
_SHOWN = 100
"""Characters of a line that are shown around a fault."""
_KINDS = {
    "null": "nothing",
    "bool": "switch",
    "int": "number",
    "float": "number",
    "str": "text",
    "timestamp": "text",
}
_TAG = "tag:yaml.org,2002:"
_NAMES = {
    "nothing": "nothing", "switch": "true or false", "number": "a number", "text": "a text", "list": "a list",
    "mapping": "a mapping",
}  # fmt: skip


@dataclass(frozen=True)
class Place:
    """A line and a column, from 1."""

    line: int
    column: int


@dataclass(frozen=True)
class Source:
    """A document, as messages call it, and its text."""

    what: str
    text: str = field(repr=False)

    @cached_property
    def _lines(self) -> list[str]:
        return self.text.splitlines()

    def line(self, number: int) -> str:
        """A line of it; "" behind its end."""
        return self._lines[number - 1] if number <= len(self._lines) else ""

    def fault(self, at: Place, message: str, hint: str | None = None) -> InputError:
        """An error that names the place, and shows the line."""
        said = f"{self.what}, line {at.line}, column {at.column}: {message}"
        line = self.line(at.line).replace("\t", " ")
        cut = max(0, at.column - 1 - _SHOWN // 2)
        shown, below = line[cut : cut + _SHOWN], " " * (at.column - 1 - cut) + "^"
        return InputError(said, hint=hint, details=(f"  {shown}", f"  {below}") if shown.strip() else ())


@dataclass(frozen=True)
class Marked:
    """A value and its place.

    Args:
        kind: "text", "number", "switch", "nothing", "list" or "mapping".
        text: a value that is neither list nor mapping, as it is written.
        items: of a list.
        pairs: of a mapping, with its keys.
    """

    source: Source = field(repr=False)
    at: Place
    kind: str
    text: str = ""
    items: tuple[Marked, ...] = ()
    pairs: tuple[tuple[Marked, Marked], ...] = ()

    def fault(self, message: str, hint: str | None = None) -> InputError:
        """An error that names this place."""
        return self.source.fault(self.at, message, hint)

    def wrong(self, name: str, right: str) -> InputError:
        """The error for a value of another kind than it should be, which `right` describes with an example."""
        if self.kind == "nothing":
            return self.fault(f"{name} has no value.", f"Write {right}, or leave it out.")
        what = _NAMES[self.kind] + (f", {self.text}" if self.kind in ("number", "switch") else "")
        return self.fault(f"{name} should be {right}, and is {what}.")

    def mapping(self, name: str, known: Collection[str], hints: dict[str, str] | None = None) -> dict[str, Marked]:
        """The values of a mapping, whose keys may be written with "-" for "_".

        Args:
            known: all keys that it may have.
            hints: what to write instead of keys that people try.

        Raises:
            InputError: it is no mapping, or has a key that is not known, with the nearest that is.
        """
        if self.kind != "mapping":
            raise self.wrong(name, "a mapping, KEY: VALUE")
        found: dict[str, Marked] = {}
        for key, value in self.pairs:
            said = key.text.replace("-", "_")
            if said not in known:
                raise key.fault(f"{name} knows no {key.text!r}.", (hints or {}).get(said) or _nearest(said, known))
            if said in found:
                raise key.fault(f"{key.text!r} is here a second time.", "Leave one of them out.")
            found[said] = value
        return found


def nearest(word: str, known: Collection[str]) -> str:
    """What a word that is not known was probably meant to be; "" where nothing is near."""
    return next(iter(difflib.get_close_matches(word.lower(), known, n=1)), "")


def _nearest(word: str, known: Collection[str]) -> str:
    near = nearest(word, known)
    return f"Did you mean {near!r}?" if near else f"Known are {', '.join(known)}."


def read_marked(data: bytes, what: str, *, hint: str) -> Marked:
    """A YAML document with the place of everything.

    Args:
        what: what is read, as messages call it.
        hint: what to do about a document with nothing in it.

    Raises:
        InputError: it is no YAML, no single document in UTF-8, uses anchors or tags, names something twice, or is too deep;
            the place is named.
    """
    import yaml

    source = Source(what, _decoded(data, what))
    try:
        _require_plain(source)
        node = yaml.compose(source.text, Loader=loader_class())
    except yaml.reader.ReaderError as error:
        before = source.text[: error.position]
        at = Place(before.count("\n") + 1, len(before) - before.rfind("\n"))
        raise source.fault(
            at, f"The character U+{ord(source.text[error.position]):04X} may not stand in YAML."
        ) from None
    except yaml.MarkedYAMLError as error:
        raise _explained(source, error) from None
    if node is None:
        raise InputError(f"{what} is empty.", hint=hint)
    return _marked(source, node)


def _decoded(data: bytes, what: str) -> str:
    if len(data) > LIMIT_BYTES:
        raise InputError(f"{what} is larger than such a file may be.", hint="Divide it into several.")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        line, column = before.count(b"\n") + 1, len(before) - before.rfind(b"\n")
        raise InputError(
            f"{what}, line {line}, column {column}: this is not UTF-8.", hint="Save it as UTF-8."
        ) from None


def _require_plain(source: Source) -> None:
    """Refuse anchors and what is too deep, before anything is built of it."""
    import yaml

    deep = 0
    for event in yaml.parse(source.text, Loader=loader_class()):
        if isinstance(event, yaml.AliasEvent):
            raise _no_alias(source, _place(event.start_mark))
        if getattr(event, "anchor", None) is not None:
            hint = "Write what it stands for, once in the file, in a profile, or under options."
            raise source.fault(_place(event.start_mark), "Anchors (&name) may not be used here.", hint)
        deep += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if deep > _MOST_DEEP:
            raise source.fault(_place(event.start_mark), f"This is nested more than {_MOST_DEEP} deep.")


def _no_alias(source: Source, at: Place) -> InputError:
    hint = 'A pattern that begins with "*" stands in quotes: "*_k_m".'
    return source.fault(at, "What begins with * is an alias of YAML's, which may not be used here.", hint)


def _explained(source: Source, error: yaml.MarkedYAMLError) -> InputError:
    """What is wrong with the text as YAML, in words that show the way out where people often go astray."""
    at, began = (Place(1, 1) if m is None else _place(m) for m in (error.problem_mark, error.context_mark))
    line, problem = source.line(at.line), str(error.problem)
    if error.context == "while scanning an alias":
        return _no_alias(source, began)
    if "\t" in line[: len(line) - len(line.lstrip())]:
        tab = Place(at.line, line.index("\t") + 1)
        return source.fault(tab, "YAML is indented by spaces, and here is a tab.", "Put spaces in its place.")
    if error.context == "while scanning a simple key":
        return source.fault(began, "This is neither KEY: VALUE nor - ITEM.", "Behind a colon stands a space.")
    if "cannot start any token" in problem:
        char = line[at.column - 1]
        return source.fault(at, f"A value that begins with {char} stands in quotes.", f'Write "{char}…".')
    if "mapping values are not allowed" in problem:
        hint = "A text with a colon and a space stands in quotes, and keys of one mapping stand in one column."
        return source.fault(at, "A key stands where none may be.", hint)
    since = f", {error.context}, which began in line {began.line}" if error.context_mark is not None else ""
    return source.fault(at, f"This is no YAML: {problem}{since}.")


def _place(mark: Any) -> Place:
    return Place(mark.line + 1, mark.column + 1)


def _marked(source: Source, node: yaml.Node) -> Marked:
    at = _place(node.start_mark)
    match node.id:  # type: ignore[attr-defined]
        case "sequence":
            return Marked(source, at, "list", items=tuple(_marked(source, one) for one in node.value))
        case "mapping":
            return Marked(source, at, "mapping", pairs=tuple(_pairs(source, node)))
    kind = _KINDS.get(node.tag.removeprefix(_TAG))
    if kind is None:
        raise source.fault(at, f"The tag {node.tag.replace(_TAG, '!!')} may not be used here.", "Leave it out.")
    return Marked(source, at, kind, node.value)


def _pairs(source: Source, node: yaml.Node) -> Iterator[tuple[Marked, Marked]]:
    for key, value in node.value:
        name = _marked(source, key)
        if name.kind in ("list", "mapping", "nothing"):
            raise name.fault(
                f"A key is {_NAMES[name.kind]}, and should be a word.", "Put text with { } or [ ] in quotes."
            )
        yield name, _marked(source, value)
