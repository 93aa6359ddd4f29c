"""When each step of a build ran and on what, from the manifests that it left."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from ggufkit.core import escape
from ggufkit.core.manifest import SUFFIX, artefact_of, read_manifest
from ggufkit.core.records import Manifest
from ggufkit.measure import bench, divergence, perplexity, plugged, similarity
from ggufkit.recipes.options import STEP
from ggufkit.steps import awq, convert, imatrix, import_gguf, method, quantize, refine
from ggufkit.steps.notes import backend_of, seconds_of
from ggufkit.steps.step import Workspace

_PAUSE_S = 1800.0
_TOUCH_S = 0.05
"""What a step may overlap with the one before and still count as after it: clocks are read at different moments."""
_TITLES = {
    convert.STEP: "convert",
    import_gguf.STEP: "import",
    awq.STEP: "AWQ scales",
    imatrix.STEP: "importance matrix",
    quantize.STEP: "quantize",
    STEP: "types by measurement",
    refine.STEP: "refine",
    method.STEP: "method",
    perplexity.STEP: "perplexity",
    divergence.STEP: "KL divergence",
    similarity.STEP: "embeddings",
    bench.STEP: "speed",
    plugged.STEP: "metric",
}


@dataclass(frozen=True)
class Span:
    """One step: on "CPU" or a GPU backend's name; `start` in seconds after the first step's; `kind` is what was done."""

    label: str
    resource: str
    start: float
    seconds: float
    kind: str = field(default="", compare=False)


def spans(root: Path, model: str = "") -> list[Span]:
    """The steps of the last build in a directory, by their start; what was made long before it is left out.

    Args:
        model: the name that the files' names begin with, which labels leave out.
    """
    found = sorted(_all(root, model))
    last: list[tuple[float, float, str, str, str]] = []
    latest = 0.0
    for step in found:
        if step[0] - latest > _PAUSE_S:
            last = []
        last.append(step)
        latest = max(latest, step[1])
    first = last[0][0] if last else 0.0
    return [Span(label, on, begun - first, ended - begun, kind) for begun, ended, label, on, kind in last]


def lanes(spans: Sequence[Span]) -> dict[str, list[list[Span]]]:
    """For each resource the lanes that its steps take: those of one lane ran one after the other."""
    found: dict[str, list[list[Span]]] = {resource: [] for resource in sorted({s.resource for s in spans})}
    for span in sorted(spans, key=lambda s: s.start):
        rows = found[span.resource]
        free = next((row for row in rows if row[-1].start + row[-1].seconds <= span.start + _TOUCH_S), None)
        if free is None:
            rows.append([span])
        else:
            free.append(span)
    return found


def _all(root: Path, model: str) -> Iterator[tuple[float, float, str, str, str]]:
    """Begin and end in seconds, label, resource and kind of every step."""
    workspace = Workspace(root)
    for place, kind in ((root, "*"), (workspace.private, "*"), (workspace.measurements, "**/*")):
        for file in place.glob(f"{kind}{SUFFIX}"):
            made = read_manifest(artefact := artefact_of(file))
            if made is not None and made.step in _TITLES:
                yield _span(made, artefact.name.removeprefix(f"{model}-"))


def _span(made: Manifest, name: str) -> tuple[float, float, str, str, str]:
    # A measurement is written when its tool has ended; the tool's own seconds tell when it began.
    ended = datetime.fromisoformat(made.started_at).timestamp() + made.duration_s
    seconds = seconds_of(made)
    label = f"{_TITLES[made.step]} {Path(name).name}"
    for ending in (".json", ".recipe.yaml", ".gguf"):
        label = label.removesuffix(ending)
    for kind in (perplexity.STEP, divergence.STEP, similarity.STEP, bench.STEP, imatrix.STEP):
        label = label.removesuffix(f".{kind}")
    resource = escape.terminal(backend_of(made).upper())
    return ended - seconds, ended, escape.terminal(label), resource, _TITLES[made.step]
