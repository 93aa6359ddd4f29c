"""What a sweep file names, where paths are beside the file: models, types, texts, tasks, values of options."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ggufkit import request, spellings
from ggufkit.core import values, variants
from ggufkit.core.errors import GgufkitError
from ggufkit.core.marked import Marked, nearest
from ggufkit.core.paths import user_path
from ggufkit.core.records import QuantType
from ggufkit.hub import names
from ggufkit.llama import targets
from ggufkit.models import sources
from ggufkit.sweep.spec import Given, Word
from ggufkit.texts import corpus, wikitext
from ggufkit.texts.tasks import questions
from ggufkit.texts.tasks.known import TITLES

NAME = re.compile(r"[^\W_][\w.+-]{0,99}")
"""What a directory of a model, or of a profile, may be called."""
LISTS = (values.Names, values.SomeOf, values.Numbers, values.Texts, values.Wholes)
"""Kinds of options that may have several values."""
_PATH_LIKE = re.compile(r"[./~\\]|.*\.gguf$", re.IGNORECASE)


def words(node: Marked, name: str, example: str) -> tuple[Marked, ...]:
    """The values of a list, or the one that stands there alone. Raises InputError where there is none, or no text."""
    if node.kind == "text":
        return (node,)
    if node.kind != "list":
        raise node.wrong(name, f"a list, {example}")
    if not node.items:
        raise node.fault(f"The list of {name} is empty.", f"Write {example}, or leave it out.")
    for item in node.items:
        if item.kind in ("list", "mapping", "nothing"):
            hint = "What has a colon in it has no space behind it, or stands in quotes." if item.pairs else None
            raise item.fault(f"In {name} there should be names, as in {example}.", hint)
    return node.items


def split(node: Marked, name: str, example: str) -> list[Word]:
    """The same, of names that may be written between commas."""
    found = [
        Word(part.strip(), one.at)
        for one in words(node, name, example)
        for part in one.text.split(",")
        if part.strip()
    ]
    if not found:
        raise node.fault(f"The list of {name} is empty.", f"Write {example}, or leave it out.")
    return found


def model(node: Marked, revision: str | None, hub: str, home: Path) -> tuple[str, str]:
    """A model as `build` takes it, and what its results are called where the file does not say it.

    Raises:
        InputError: it is neither there nor a name of a hub.
    """
    said = node.text.strip()
    path = home / user_path(said)
    if path.is_file() or (path.is_dir() and (_is_checkpoint(path) or names.find_alias(said) is None)):
        return _local(node, path, revision)
    if _PATH_LIKE.match(said):
        raise node.fault(f"{path} is not there.", "A path is relative to the sweep file.")
    wanted = f"{said}@{revision}" if revision else said
    try:
        if not names.places(wanted, hub):
            raise names.unknown(said)
    except GgufkitError as error:
        raise node.fault(error.message, error.hint) from None
    return wanted, said.partition("@")[0].removeprefix("ms:").rpartition("/")[2]


def _local(node: Marked, path: Path, revision: str | None) -> tuple[str, str]:
    if revision is not None:
        raise node.fault(
            "A revision is of a model of a hub, and this one is on the disk.", "Leave `revision` out."
        )
    if path.is_dir() and not _is_checkpoint(path):
        raise node.fault(f"{path} is no checkpoint: it has no config.json.", "Name the directory that has it.")
    try:
        name = sources.name_of_directory(path.resolve()) if path.is_dir() else sources.name_of(path)
    except GgufkitError as error:
        raise node.fault(error.message, error.hint) from None
    return str(path.absolute()), name


def _is_checkpoint(path: Path) -> bool:
    return (path / "config.json").is_file()


def type_(word: Word, fault: Callable[..., Exception], home: Path, known: Sequence[QuantType] | None) -> Word:
    """A type as `build` takes it.

    Args:
        fault: the error at the word, of a message and a hint.
        known: all types of the toolchain; None where there is none yet, and types are checked when they are made.

    Raises:
        InputError: there is none of that name, or the file of a recipe is not there.
    """
    said, recipe = word.text, targets.recipe_file(word.text)
    if recipe is not None:
        if not (home / recipe).is_file():
            raise fault(f"{home / recipe} is not there.", "Name a recipe, or a GGUF whose types are copied.")
        said = f"recipe:{(home / recipe).absolute()}"
    if known is not None:
        try:
            targets.resolve([said], known)
        except GgufkitError as error:
            raise fault(error.message, error.hint) from None
    return Word(said, word.at)


def variant(word: Word, fault: Callable[..., Exception]) -> Word:
    """A variant by the name that the table has. Raises InputError where there is none."""
    said, table = word.text.lower().replace("imatrix+awq", "awq+imatrix"), variants.names()
    if said not in table:
        near = nearest(said, table)
        hint = f"Did you mean {near}?" if near else f"Choose from {', '.join(table)}."
        raise fault(f"There is no variant {word.text!r}.", hint)
    return Word(said, word.at)


def option(name: str, node: Marked, home: Path) -> Given:
    """The value of an option. Raises InputError where it is none, or names a file that is not there."""
    kind = spellings.KINDS[name]
    said = _said(name, kind, node)
    if isinstance(kind, values.UserPath):
        said = _path(str(said), node, home)
    elif name in _NAMED:
        said = tuple(_NAMED[name](one, home) for one in words(node, name, "[NAME]"))
    try:
        return Given(spellings.read(name, said, request.default(name)), node.at)
    except GgufkitError as error:
        raise node.fault(error.message, error.hint) from None


def _said(name: str, kind: values.Kind, node: Marked) -> Any:
    """What is written, as the kind of an option reads it."""
    if kind == values.SWITCH:
        if node.kind != "switch":
            raise node.wrong(name, "true or false")
        return node.text.lower() in ("true", "yes", "on")
    if isinstance(kind, LISTS) and node.kind == "list":
        return tuple(one.text for one in words(node, name, "[VALUE, VALUE]"))
    if node.kind in ("list", "mapping", "nothing"):
        raise node.wrong(name, "one value")
    return node.text


def _path(said: str, node: Marked, home: Path) -> str:
    path = home / user_path(said)
    if not path.exists():
        raise node.fault(f"{path} is not there.", "A path is relative to the sweep file.")
    return str(path.absolute())


def _text(node: Marked, home: Path) -> str:
    """A text by its name, or its file beside the sweep file; a column or a share may stand behind it."""
    said = node.text
    if said.partition(":")[0] in corpus.NAMES:
        return said
    if (found := _with_suffix(said, home)) is not None:
        return found
    if wikitext.is_dataset(said):
        return said
    near = nearest(said, corpus.NAMES)
    hint = f"Did you mean {near}?" if near else f"Texts by name are {', '.join(corpus.NAMES)}."
    raise node.fault(f"There is no text {said!r}: {home / user_path(said)} is not there.", hint)


def _with_suffix(said: str, home: Path) -> str | None:
    """A path that is there, made absolute, with what stands behind a colon."""
    ends = [len(said), *(i for i in range(len(said) - 1, 0, -1) if said[i] == ":")]
    for end in ends:
        path = home / user_path(said[:end])
        if path.exists():
            return f"{path.absolute()}{said[end:]}"
    return None


def _task(node: Marked, home: Path) -> str:
    name, equals, file = node.text.rpartition("=")
    said = node.text
    if said.lower() not in TITLES and (home / user_path(file)).is_file():
        said = f"{name}{equals}{(home / user_path(file)).absolute()}"
    try:
        questions.parse([said])
    except GgufkitError as error:
        near = nearest(said, TITLES)
        raise node.fault(error.message, f"Did you mean {near}?" if near else error.hint) from None
    return said


_NAMED: Mapping[str, Callable[[Marked, Path], str]] = {"calibration": _text, "corpus": _text, "tasks": _task}
"""Options whose values are names, or files."""
