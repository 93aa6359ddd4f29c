"""How little a model loses at each size: KL divergence against bytes, predicted and verified. Pure."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass

from ggufkit.core import escape

COLUMNS = ("kind", "name", "size_bytes", "bpw", "expected_kld", "kld", "kld_stderr")
"""Of the table: sizes in bytes, bits per weight, and nats of mean KL divergence from the base."""
PREDICTED, VERIFIED, PRESET = "predicted", "verified", "preset"


@dataclass(frozen=True)
class Predicted:
    """The best recipe for a size, as it is expected to be: `kld` is the mean KL divergence in nats."""

    size_bytes: int
    bpw: float
    kld: float


@dataclass(frozen=True)
class Verified:
    """A recipe of the curve whose file was made and measured: mean KL divergence in nats, and its standard error."""

    size_bytes: int
    bpw: float
    kld: float
    kld_stderr: float | None = None


@dataclass(frozen=True)
class Preset:
    """A type of llama-quantize, measured: what recipes are compared with."""

    name: str
    size_bytes: int
    bpw: float
    kld: float
    kld_stderr: float | None = None


@dataclass(frozen=True)
class Curve:
    """The front of KL divergence against bytes.

    Args:
        predicted: the best recipes by what is expected of them, from small to large.
        verified: some of them, measured.
        presets: measured as those are.
        model: what it is the curve of.
        expected_on: the text that the expectation was measured on, "" where that is not known.
        measured_on: the text that the verified points and the presets were measured on.
    """

    predicted: tuple[Predicted, ...]
    verified: tuple[Verified, ...] = ()
    presets: tuple[Preset, ...] = ()
    model: str = ""
    expected_on: str = ""
    measured_on: str = ""

    def to_csv(self) -> str:
        """One row for each point, by `COLUMNS`; what was not measured is empty, and no name is a formula."""
        out = io.StringIO()
        table = csv.writer(out, lineterminator="\n")
        table.writerow(COLUMNS)
        table.writerows(self._rows())
        return out.getvalue()

    def _rows(self) -> Iterator[tuple[object, ...]]:
        for p in self.predicted:
            yield PREDICTED, "", p.size_bytes, _number(p.bpw), _number(p.kld), "", ""
        for v in self.verified:
            yield VERIFIED, "", *_measured(v)
        for preset in self.presets:
            yield PRESET, escape.csv(preset.name), *_measured(preset)


def _measured(point: Verified | Preset) -> tuple[object, ...]:
    """The cells of a point from its size on."""
    return point.size_bytes, _number(point.bpw), "", _number(point.kld), _number(point.kld_stderr)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"
