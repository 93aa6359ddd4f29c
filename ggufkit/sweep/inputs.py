"""Files that a request names: the driver has them, and workers on other machines get them through the store."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ggufkit.core.paths import user_path
from ggufkit.models import sources
from ggufkit.request import BuildRequest
from ggufkit.sweep.records import StoredFile
from ggufkit.sweep.stores import HOME, Store, is_as_told

PATHS = (
    ("source", "lora"), ("overrides", "tensor_type_file"), ("calibration", "text"), ("calibration", "imatrix"),
    ("evaluation", "corpus"), ("evaluation", "tasks"),
)  # fmt: skip
"""Fields of a request's groups that may name files, besides its model and its types."""

Renamed = Callable[[str], str | None]
"""The path that takes the place of one; None for what is no path."""


@dataclass(frozen=True)
class Given:
    """A file or a directory that the driver has.

    Args:
        path: as the request has it.
        cell: where it is in the store.
        name: its own; what is made of it is called by that.
        files: all of it.
    """

    path: str
    cell: str
    name: str
    files: tuple[StoredFile, ...]


def offered(request: BuildRequest, store: Store) -> tuple[Given, ...]:
    """Let others have the files that a request names. Where the driver's directory is the store, links are enough."""
    return tuple(_offer(path, store) for path in dict.fromkeys(named(request)))


def _offer(path: str, store: Store) -> Given:
    home = user_path(path).resolve()
    found = [f for f in sorted(home.rglob("*")) if f.is_file()] if home.is_dir() else [home]
    name = Path(path).name or home.name
    key = hashlib.sha256(json.dumps([(str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in found]).encode())
    cell = f"{HOME}/inputs/{key.hexdigest()[:12]}"
    target = store.place(cell) / name
    for file in found:
        _link(target / file.relative_to(home) if home.is_dir() else target, file.resolve())
    return Given(path, cell, name, store.push(cell, [target]))


def _link(link: Path, file: Path) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        link.symlink_to(file)


def localized(request: BuildRequest, given: Sequence[Given], store: Store) -> BuildRequest:
    """The request with paths that are right on this machine; what is not here comes from the store."""
    here = {one.path: _brought(one, store) for one in given}
    return replace(_with_paths(request, here.get), model=here.get(request.model, request.model))


def _brought(one: Given, store: Store) -> str:
    home = user_path(one.path)
    if all(is_as_told(home.parent / file.name, file) for file in one.files):
        return one.path
    store.pull(one.cell, one.files)
    return str(store.place(one.cell) / one.name)


def named(request: BuildRequest) -> list[str]:
    """Paths on this disk that a request names, as it has them. A sweep file's are absolute: what else is here by the name
    of a type or a text is not meant."""
    seen = [request.model] if sources.is_local(request.model) else []

    def note(part: str) -> str | None:
        if not user_path(part).is_absolute() or not user_path(part).exists():
            return None
        seen.append(part)
        return part

    _with_paths(request, note)
    return seen


def _with_paths(request: BuildRequest, renamed: Renamed) -> BuildRequest:
    """The request with other paths in place of those that it names, all but the model's."""
    groups: dict[str, Any] = {}
    for group, name in PATHS:
        now = groups.get(group, getattr(request, group))
        groups[group] = replace(now, **{name: _renamed(getattr(now, name), renamed)})
    return replace(request, types=_renamed(request.types, renamed), **groups)


def _renamed(value: Any, renamed: Renamed) -> Any:
    if isinstance(value, tuple):
        return tuple(_renamed(one, renamed) for one in value)
    if isinstance(value, Path):
        return Path(renamed(str(value)) or value)
    if isinstance(value, str):
        # A file may stand behind `recipe:` or `name=`, or before a share or a column.
        parts = (value, value.partition(":")[2], value.partition("=")[2], value.rpartition(":")[0])
        found = ((part, renamed(part)) for part in parts if part)
        return next((value.replace(part, other, 1) for part, other in found if other is not None), value)
    return value
