"""JSON that somebody else wrote: read within limits of size and depth, and in the shape that it should have."""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, TypeVar

from ggufkit.core.errors import GgufkitError, InputError
from ggufkit.core.units import size

T = TypeVar("T")
Refusal = Callable[..., GgufkitError]
"""Makes the error of a message and a hint: a class of `errors`, or one that adds the log."""

LIMIT_BYTES = 8 << 20
"""Room for any config. A file of as many brackets takes twenty times as much memory."""
MAX_DEPTH = 100
"""More than any config nests, and little enough for whatever walks through it afterwards."""
_MARKS = {
    codecs.BOM_UTF8: "UTF-8 with a byte order mark",
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
LFS_POINTER = b"version https://git-lfs"
"""How a file begins that Git LFS left in place of the real one."""


def read_json(
    path: Path,
    shape: type[T],
    error: Refusal = InputError,
    *,
    hint: str = "Download it again, or restore it.",
    limit: int = LIMIT_BYTES,
) -> T:
    """The content of a JSON file; arguments and errors are those of `parse_json`, which also tell of a file not read."""
    return parse_json(read_within(path, limit, error, hint=hint), shape, str(path), error, hint=hint)


def read_within(path: Path, limit: int, error: Refusal = InputError, *, hint: str) -> bytes:
    """The bytes of a file that somebody else wrote. Raises `error` where it cannot be read or has more than `limit`."""
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as failure:
        message = f"{path} cannot be read: {failure.strerror or failure}."
        raise error(message, hint="Check its path and its permissions.") from failure
    if len(data) > limit:
        raise error(f"{path} is larger than such a file may be: {size(limit)}.", hint=hint)
    return data


def parse_json(
    data: bytes | str,
    shape: type[T],
    what: str,
    error: Refusal = InputError,
    *,
    hint: str = "Download it again, or restore it.",
) -> T:
    """The value of a JSON document. NaN and Infinity are read, as Python's own tools write them.

    Args:
        shape: what it must be: `dict[str, Any]`, a dataclass, a TypedDict … Keys that a dataclass lacks are skipped.
        what: what is read, as messages call it.
        error: what is raised.
        hint: what to do about a document that is damaged.

    Raises:
        error: it is no JSON, none in UTF-8, nested too deep, or of another shape; `what` is named.
    """
    import msgspec

    raw = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data
    _require_text(raw, what, error, hint)
    try:
        value = _decode(raw, shape)
    except msgspec.ValidationError as failure:
        raise error(f"{what} is not as expected: {failure}.", hint=hint) from failure
    except ValueError as failure:
        reason = str(failure).removeprefix("JSON is malformed: ")
        raise error(f"{what} is not valid JSON: {reason}.", hint=hint) from failure
    except RecursionError as failure:
        raise error(_too_deep(what), hint=hint) from failure
    if _is_deep(value):
        raise error(_too_deep(what), hint=hint)
    return value


def is_of(value: object, kind: Any) -> bool:
    """Whether a value that was read is of a type, its items included; an integer is a float, too."""
    import msgspec

    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError:
        return False
    return True


def _require_text(raw: bytes, what: str, error: Refusal, hint: str) -> None:
    if not raw.strip():
        raise error(f"{what} is empty.", hint=hint)
    if raw.startswith(LFS_POINTER):
        message = f"{what} is a pointer of Git LFS, not the file itself."
        raise error(message, hint="Fetch the files: `git lfs pull`.")
    for mark, encoding in _MARKS.items():
        if raw.startswith(mark):
            message = f"{what} is {encoding}; JSON is UTF-8 without one."
            raise error(message, hint="Save it as UTF-8 without a byte order mark.")


def _decode(raw: bytes, shape: type[T]) -> T:
    import msgspec

    try:
        return msgspec.json.decode(raw, type=shape)
    except msgspec.ValidationError:
        raise
    except ValueError:
        if b"NaN" not in raw and b"Infinity" not in raw:
            raise
    text = raw.decode("utf-8")
    value = json.loads(text)
    if "\\ud" in text.lower():
        json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair cannot be written to any file
    return msgspec.convert(value, type=shape)


def _too_deep(what: str) -> str:
    return f"{what} is nested more than {MAX_DEPTH} deep."


def _is_deep(value: object) -> bool:
    """Whether lists and objects hold each other more than MAX_DEPTH deep; level by level, as recursion has a limit too."""
    level: list[object] = [value]
    for _ in range(MAX_DEPTH):
        level = [item for outer in level for item in _items(outer) if not isinstance(item, (str, int, float))]
        if not level:
            return False
    return any(_is_container(item) for item in level)


def _items(value: object) -> Iterable[object]:
    if isinstance(value, Mapping):
        return value.values()
    if isinstance(value, (list, tuple)):
        return value
    return vars(value).values() if is_dataclass(value) else ()


def _is_container(value: object) -> bool:
    return isinstance(value, (Mapping, list, tuple)) or is_dataclass(value)
