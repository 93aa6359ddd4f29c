"""Texts in JSON and JSONL: a list, or a value a line, of strings or of objects with a field that holds the text."""

from __future__ import annotations

import codecs
from pathlib import Path
from typing import Any

from ggufkit.core.errors import CorpusError
from ggufkit.core.jsonfile import parse_json

JSON, LINES = ".json", (".jsonl", ".ndjson")
HEAD = 512
"""Bytes that show a text's encoding."""
_FEW_LETTERS = 4
_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


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


def require_no_utf16(file: Path, head: bytes) -> None:
    """Raise CorpusError where the first bytes of a text show that it is UTF-16 or UTF-32, as Windows likes to save it."""
    encoding = next((name for mark, name in _MARKS.items() if head.startswith(mark)), None) or _without_mark(head)
    if encoding is not None:
        hint = f"Convert it: iconv -f {encoding} -t UTF-8 FILE > NEW; or save it as UTF-8 in an editor."
        raise CorpusError(f"{file} is {encoding[:6]} text, not UTF-8.", hint=hint)


def _without_mark(head: bytes) -> str | None:
    """Most letters have a zero as their upper byte, in text that is mostly Latin."""
    pairs = len(head) // 2
    zeros = {"UTF-16LE": head[1::2].count(0), "UTF-16BE": head[0::2].count(0)}
    encoding, most = max(zeros.items(), key=lambda item: item[1])
    is_text = pairs >= _FEW_LETTERS and most > pairs // 2 and min(zeros.values()) == 0
    return encoding if is_text else None


def decode(file: Path) -> str:
    """A text file's content. Raises CorpusError where it cannot be read, or is not UTF-8 text."""
    hint = "Extract its text column into a .txt, .json or .jsonl file."
    try:
        data = file.read_bytes()
        require_no_utf16(file, data[:HEAD])
        if b"\0" in data:
            raise CorpusError(f"{file} is binary, not text.", hint=hint)
        return data.decode("utf-8")
    except OSError as error:
        reason = error.strerror or str(error)
        raise CorpusError(f"The text {file} cannot be read: {reason}.", hint="Check its path.") from error
    except UnicodeDecodeError as error:
        raise CorpusError(f"{file} is not UTF-8 text (byte {error.start}).", hint=hint) from error
