"""What is written beside each artefact: the recipe that made it, and what came out.

A step's own keys are the fields of its `Notes` and `Params`, which write and read them: nobody else spells them.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from ggufkit.core.errors import InputError
from ggufkit.core.jsonfile import is_of, read_json
from ggufkit.core.records import Json, Manifest

N = TypeVar("N", bound="Notes")
P = TypeVar("P", bound="Params")
T = TypeVar("T")

_HINTS: dict[type[Any], Mapping[str, Any]] = {}

SCHEMA = 1
SUFFIX = ".manifest.json"
PARTIAL = ".ggufkit.partial"
"""What unfinished files end in; other programs' downloads end in ".partial", too."""
_HINT = "Remove it, and make its file again."


def manifest_path(artefact: Path) -> Path:
    """The manifest of an artefact: beside it, with a longer name."""
    return artefact.with_name(artefact.name + SUFFIX)


def artefact_of(manifest: Path) -> Path:
    """What a manifest tells of: the file beside it, with the shorter name."""
    return manifest.with_name(manifest.name.removesuffix(SUFFIX))


def read_manifest(artefact: Path) -> Manifest | None:
    """The manifest of an artefact, or None when there is none that this version can read."""
    try:
        return open_manifest(artefact)
    except InputError:
        return None


def open_manifest(artefact: Path) -> Manifest:
    """The manifest of an artefact.

    Raises:
        InputError: there is none, or it is none that this version wrote: a value of another type is named.
    """
    file = manifest_path(artefact)
    if read_json(file, _Versioned, hint=_HINT).schema != SCHEMA:
        raise InputError(f"{file} is of a schema that this version does not know.", hint=_HINT)
    made = read_json(file, Manifest, hint=_HINT)
    odd = next(_odd_values(made), None)
    if odd is not None:
        raise InputError(f"{file} is not as expected: {odd}.", hint=_HINT)
    return made


@dataclass(frozen=True)
class _Versioned:
    schema: int


def _odd_values(made: Manifest) -> Iterator[str]:
    """What no step writes into a manifest: values that are read later, or under names that steps use otherwise."""
    if not _is_time(made.started_at):
        yield f"started_at is {made.started_at!r}"
    if not 0 <= made.duration_s < math.inf:
        yield f"duration_s is {made.duration_s}"
    if not is_of(made.output, dict[str, str | int]):
        yield f"output is {made.output}"
    for record, values in ((Notes, made.notes), (Params, made.params)):
        known = [_hints(kind) for kind in _kinds_of(record)]
        for name, value in values.items():
            kinds = [types[name] for types in known if name in types]
            if kinds and not any(is_of(value, kind) for kind in kinds):
                yield f"{name} is {value!r}"


def _kinds_of(record: type[Any]) -> Iterator[type[Any]]:
    for kind in record.__subclasses__():
        yield kind
        yield from _kinds_of(kind)


def _is_time(text: str) -> bool:
    try:
        return datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        return False


def write_manifest(artefact: Path, manifest: Manifest) -> None:
    """Write the manifest of an artefact atomically."""
    write_atomically(manifest_path(artefact), json.dumps(asdict(manifest), indent=1, sort_keys=True) + "\n")


def write_atomically(path: Path, text: str) -> None:
    """Write `text` under another name, then give it the final one. Bytes of a name that are no text show.

    Nothing is left of what cannot be written.
    """
    partial = path.with_name(path.name + PARTIAL)
    try:
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")
        os.replace(partial, path)  # noqa: PTH105 - atomic on every platform
    except BaseException as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)  # a full disk names nothing
        raise


@dataclass(frozen=True)
class Notes:
    """Facts that a step keeps in its manifest. Fields are the keys; all have defaults, for manifests that lack them."""

    def to_notes(self) -> dict[str, Json]:
        """What goes into the manifest."""
        return _as_json(self)

    @classmethod
    def from_manifest(cls: type[N], made: Manifest) -> N:
        """What a manifest notes; the default of what it lacks."""
        return _typed(cls, made.notes)


@dataclass(frozen=True)
class Params:
    """Parameters that decide a step's result, by the names that its recipe has for them; with defaults, as `Notes`."""

    def to_params(self) -> dict[str, Json]:
        """What goes into the recipe."""
        return _as_json(self)

    @classmethod
    def from_manifest(cls: type[P], made: Manifest) -> P:
        """The parameters that something was made with."""
        return _typed(cls, made.params)


def _as_json(record: Notes | Params) -> dict[str, Json]:
    return {field.name: getattr(record, field.name) for field in fields(record)}


def _hints(record: type[Any]) -> Mapping[str, Any]:
    """The types of a record's fields, by name; Python takes its time to find them."""
    if record not in _HINTS:
        _HINTS[record] = get_type_hints(record)
    return _HINTS[record]


def _typed(record: type[T], values: Mapping[str, Json]) -> T:
    kinds = _hints(record)
    return record(**{name: v for name, v in values.items() if name in kinds and is_of(v, kinds[name])})
