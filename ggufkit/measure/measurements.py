"""Measurements on disk: one JSON file per GGUF and kind, versioned by its manifest."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from ggufkit.core.errors import InputError
from ggufkit.core.jsonfile import read_json
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
    """Read measurements; a file that is not there holds none.

    Raises:
        InputError: it is not what `save` writes, or has a value that is no number.
    """
    if not path.is_file():
        return []
    hint = "Remove it, and measure again."
    found = read_json(path, list[Measurement], hint=hint)
    odd = next((m for m in found if not all(math.isfinite(v) for v in (m.value, m.stderr or 0.0))), None)
    if odd is not None:
        raise InputError(f"{path} has {odd.value} ± {odd.stderr} as {odd.metric}.", hint=hint)
    return found
