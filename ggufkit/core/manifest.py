"""What is written beside each artefact: the recipe that made it, and what came out."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ggufkit.core.records import Manifest

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
