"""Measurements on disk: one JSON file per GGUF and kind, versioned by its manifest."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from ggufkit.core.records import Conditions, Measurement
from ggufkit.measure.metrics import BY_NAME

Figure = tuple[float, float | None]
"""A value and its standard error, or None if it has none."""


def measured(file_sha256: str, values: dict[str, Figure], conditions: Conditions) -> list[Measurement]:
    """Measurements of one file under one set of conditions, by metric name."""
    return [
        Measurement(file_sha256, name, value, stderr, BY_NAME[name].unit, conditions)
        for name, (value, stderr) in values.items()
    ]


def save(path: Path, measurements: Sequence[Measurement]) -> None:
    """Write measurements as JSON."""
    path.write_text(json.dumps([asdict(m) for m in measurements], indent=1) + "\n", encoding="utf-8")


def load(path: Path) -> list[Measurement]:
    """Read measurements; an unreadable file holds none."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        return [Measurement(**{**row, "conditions": Conditions(**row["conditions"])}) for row in rows]
    except (OSError, ValueError, TypeError, KeyError):
        return []
