"""The map of the house is whole; which module may import what is checked by import-linter (`pyproject.toml`)."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import ggufkit

PACKAGE = Path(ggufkit.__file__).parent
MAP = re.search(
    r"```\nggufkit/\n(.*?)```", (PACKAGE.parent / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.DOTALL
)
MODULES = sorted(f for f in PACKAGE.rglob("*.py") if f.name != "__init__.py" or f.parent == PACKAGE)
ROOM = re.compile(r"^( *)(\w+)/  ", re.MULTILINE)


def rooms() -> dict[str, str]:
    """What the map says of each room, by its path; "" is the root."""
    assert MAP is not None
    found: dict[str, str] = {"": ""}
    here, path = "", [""]
    for line in MAP[1].splitlines():
        if (room := ROOM.match(line)) is not None:
            depth = len(room[1]) // 2
            path = [*path[:depth], room[2]]
            here = "/".join(part for part in path if part) + "/"
            found[here] = line
        else:
            here = here if line.startswith("    ") else ""
            found[here] += "\n" + line
    return found


@pytest.mark.parametrize("file", MODULES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_the_map_names_every_module(file: Path) -> None:
    home = file.parent.relative_to(PACKAGE)
    said = rooms().get("" if home == Path() else f"{home}/")
    assert said is not None, f"CONTRIBUTING.md knows no room {home}/"
    assert re.search(rf"\b{file.stem}\b", said), f"CONTRIBUTING.md does not say where {file.name} is"
