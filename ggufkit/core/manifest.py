"""What is written beside each artefact: the recipe that made it, and what came out.

A step's own keys are the fields of its `Notes` and `Params`, which write and read them: nobody else spells them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from ggufkit.core.records import Json, Manifest

N = TypeVar("N", bound="Notes")
P = TypeVar("P", bound="Params")
T = TypeVar("T")

SCHEMA = 1
SUFFIX = ".manifest.json"
PARTIAL = ".ggufkit.partial"
"""What unfinished files end in; other programs' downloads end in ".partial", too."""


def manifest_path(artefact: Path) -> Path:
    """The manifest of an artefact: beside it, with a longer name."""
    return artefact.with_name(artefact.name + SUFFIX)


def read_manifest(artefact: Path) -> Manifest | None:
    """The manifest of an artefact, or None when there is none that this version can read."""
    try:
        data: dict[str, Any] = json.loads(manifest_path(artefact).read_text(encoding="utf-8"))
        return Manifest(**data) if data.get("schema") == SCHEMA else None
    except (OSError, ValueError, TypeError, AttributeError):
        return None


def write_manifest(artefact: Path, manifest: Manifest) -> None:
    """Write the manifest of an artefact atomically."""
    write_atomically(manifest_path(artefact), json.dumps(asdict(manifest), indent=1, sort_keys=True) + "\n")


def write_atomically(path: Path, text: str) -> None:
    """Write `text` under another name, then give it the final one."""
    partial = path.with_name(path.name + PARTIAL)
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)  # noqa: PTH105 - atomic on every platform


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


def _typed(record: type[T], values: Mapping[str, Json]) -> T:
    kinds = get_type_hints(record)
    return record(**{name: v for name, v in values.items() if name in kinds and _is_of(v, kinds[name])})


def _is_of(value: object, kind: Any) -> bool:
    """Whether a value is of an annotated type, the types of its items aside."""
    if get_origin(kind) is UnionType:
        return any(_is_of(value, one) for one in get_args(kind))
    return isinstance(value, get_origin(kind) or kind)
