"""Measurements on disk: one JSON file per GGUF and kind, versioned by its manifest, in an order that needs no clock."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from glob import escape
from pathlib import Path

from ggufkit.core.errors import InputError
from ggufkit.core.jsonfile import read_json
from ggufkit.core.manifest import SUFFIX, Notes, artefact_of, read_manifest
from ggufkit.core.part_names import stem_of
from ggufkit.core.records import F16, Conditions, GgufFile, Manifest, Measurement
from ggufkit.measure.metrics import BY_NAME
from ggufkit.steps.step import Workspace

Figure = tuple[float, float | None]
"""A value and its standard error, or None if it has none."""


@dataclass(frozen=True, order=True)
class Order(Notes):
    """Which of a file's measurements counts: the greatest.

    Args:
        confirmed: counts, file by file, how often a build has taken a measurement for its table; 0 if none took this.
        confirmed_at: when it was taken, which earlier versions noted instead.
        number: counts the measurements of the file; 0 if an earlier version made it.
    """

    confirmed: int = 0
    confirmed_at: str = ""
    number: int = 0


def place(gguf: GgufFile, kind: str, workspace: Workspace) -> Path:
    """The file that holds what is measured of a GGUF; with a KV cache of its own type in a directory of its own."""
    return place_of(gguf.path, gguf.kv_type, kind, workspace)


def place_of(path: Path, kv_type: str, kind: str, workspace: Workspace) -> Path:
    """The same of a file that need not be there yet."""
    directory = workspace.measurements if kv_type == F16 else workspace.measurements / f"kv-{kv_type}"
    return directory / f"{stem_of(path)}.{kind}.json"


def next_number(result: Path) -> int:
    """The number of a measurement that is made now, after all others of its file; it goes to `<file>.<kind>.json`."""
    stem = result.name.removesuffix(".json").rpartition(".")[0]
    beside = result.parent.glob(f"{escape(stem)}.*.json{SUFFIX}")
    made = [read_manifest(artefact_of(manifest)) for manifest in beside]
    return 1 + max((Order.from_manifest(one).number for one in made if one is not None), default=0)


def order_of(made: Manifest) -> tuple[Order, str]:
    """What measurements of one file are compared by; times decide between those of earlier versions only."""
    order = Order.from_manifest(made)
    return order, "" if order.number else made.started_at


def measured(file_sha256: str, values: dict[str, Figure], conditions: Conditions) -> list[Measurement]:
    """Measurements of one file under one set of conditions, by metric name."""
    return [
        Measurement(file_sha256, name, value, stderr, BY_NAME[name].unit, conditions)
        for name, (value, stderr) in values.items()
    ]


def against_own_base(found: Sequence[Measurement], of_base: Sequence[Measurement]) -> list[Measurement]:
    """A file's measurements with `ppl_base` and `ln_ppl_ratio` by the base's own pass, where that was measured alike.

    llama-perplexity compares with saved logits. They are clipped, 16 below the greatest of a token, so that the base has
    another perplexity by them, and its ratio is off by as much for every file. The ratio's error is of paired tokens; the
    clipping hardly changes it.
    """
    ppl, own = (next((m for m in ms if m.metric == "ppl"), None) for ms in (found, of_base))
    if ppl is None or own is None or _text(ppl.conditions) != _text(own.conditions):
        return list(found)
    if ppl.value <= 0 or own.value <= 0:  # no perplexities: somebody changed the file
        return list(found)
    values = {"ppl_base": own.value, "ln_ppl_ratio": math.log(ppl.value / own.value)}
    return [replace(m, value=values.get(m.metric, m.value)) for m in found]


def against_own_bases(found: Sequence[Sequence[Measurement]]) -> list[list[Measurement]]:
    """The same for the measurements of several files and settings, a list for each; bases run with an F16 KV cache."""
    bases = {
        (m.file_sha256, _text(m.conditions)): ms
        for ms in found
        for m in ms[:1]
        if m.conditions.kv_type in (None, F16)
    }

    def own(ms: Sequence[Measurement]) -> Sequence[Measurement]:
        where = ms[0].conditions
        return bases.get((str(where.base_sha256), _text(where)), ())

    return [against_own_base(ms, own(ms)) if ms else [] for ms in found]


def _text(where: Conditions) -> tuple[object, ...]:
    """What perplexities must agree in to be compared to the fourth decimal."""
    return where.corpus_sha256, where.n_ctx, where.n_chunks, where.backend, where.llama_cpp_commit


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
