"""Texts in JSON and JSONL: a list, or a value a line, of strings or of objects with a field that holds the text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ggufkit.core.errors import CorpusError
from ggufkit.core.jsonfile import parse_json

JSON, LINES = ".json", (".jsonl", ".ndjson")


def is_structured(file: Path) -> bool:
    """Whether a file holds texts as JSON or JSONL, by its name."""
    return file.is_file() and file.suffix.lower() in (JSON, *LINES)


def read_entries(file: Path) -> list[Any]:
    """The values of a file, whatever they are.

    Raises:
        CorpusError: it cannot be read, or is not what its name says.
    """
    text, hint = decode(file), "Is it JSONL, or plain text?"
    if file.suffix.lower() == JSON:
        values = parse_json(text, object, str(file), CorpusError, hint=hint)
        return values if isinstance(values, list) else [values]
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    return [parse_json(line, object, f"{file}, line {number},", CorpusError, hint=hint) for number, line in lines]


def text_of(entry: Any, field: str, file: Path) -> str:
    """The text of an entry. Raises CorpusError where it has no such field, or another kind of value there."""
    value = entry.get(field) if isinstance(entry, dict) else entry
    if isinstance(value, str):
        return value
    have = ", ".join(sorted(entry)) if isinstance(entry, dict) else type(entry).__name__
    message = f"{file} has an entry without the text field {field!r}; it has: {have}."
    raise CorpusError(
        message, hint="Name the field that holds the text: --corpus FILE:FIELD, --calibration-field FIELD."
    )


def decode(file: Path) -> str:
    """A text file's content. Raises CorpusError where it cannot be read, or is not UTF-8 text."""
    hint = "Extract its text column into a .txt, .json or .jsonl file."
    try:
        data = file.read_bytes()
        if b"\0" in data:
            raise CorpusError(f"{file} is binary, not text.", hint=hint)
        return data.decode("utf-8")
    except OSError as error:
        reason = error.strerror or str(error)
        raise CorpusError(f"The text {file} cannot be read: {reason}.", hint="Check its path.") from error
    except UnicodeDecodeError as error:
        raise CorpusError(f"{file} is not UTF-8 text (byte {error.start}).", hint=hint) from error
