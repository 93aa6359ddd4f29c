"""Step: checkpoint -> the same checkpoint with AWQ scales folded in, for the types that its tensors will get."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ggufkit.core import durations
from ggufkit.core.errors import UsageError
from ggufkit.core.inputs import Input, unchanged
from ggufkit.core.manifest import Notes, Params
from ggufkit.core.records import Checkpoint, Json
from ggufkit.core.variants import Scaling
from ggufkit.models.checkpoint import open_checkpoint
from ggufkit.models.files import files_of, fingerprint
from ggufkit.steps import offload
from ggufkit.steps.session import Session
from ggufkit.steps.step import Made, Recipe, Result, staleness
from ggufkit.texts.calibration import Calibration

if TYPE_CHECKING:
    from ggufkit.awq.engine import ScaledCheckpoint
    from ggufkit.awq.search import QuantizationScheme

STEP, VERSION = "awq", 4


@dataclass(frozen=True)
class ScalingOptions:
    """How to scale.

    Args:
        engine: native, or AutoAWQ in an environment of its own.
        objective: what the native engine minimizes: the error under llama.cpp's own types, or AutoAWQ's.
        dtype: of the scaled checkpoint: that of the source, or float32, which loses nothing.
        per_type: a scaled checkpoint for each type, instead of one for their mean error.
        device: of the search: auto, cpu or cuda.
    """

    engine: str = "native"
    objective: str = "ggml"
    dtype: str = "source"
    per_type: bool = False
    device: str = "auto"

    def require_possible(self) -> None:
        """Raise UsageError where scales for each type are asked of a search that knows no types."""
        if self.per_type and not self.knows_types:
            message = "AutoAWQ's scales know nothing of GGUF types."
            raise UsageError(message, hint="Leave out --awq-per-type, or use the native engine.")

    @property
    def knows_types(self) -> bool:
        """Whether the search minimizes the error under the GGUF types that the tensors will get."""
        return (self.engine, self.objective) == ("native", "ggml")


@dataclass(frozen=True)
class AwqParams(Params):
    """What decides a scaled checkpoint besides its inputs; what only the native engine heeds is None for the other."""

    engine: str = "native"
    objective: str | None = None
    dtype: str = "source"
    importance: bool | None = None
    types_sha256: str | None = None


@dataclass(frozen=True)
class AwqNotes(Notes):
    """What is known of a scaled checkpoint; of its calibration see `CalibrationNotes`.

    `label` is what it is for, `tool_s` the seconds of the search for all checkpoints that were scaled along.
    `tensors` tells of each scaled tensor how many times the power of its input's median channel the largest one has, and
    what the scales leave of its output error; it is missing where the search knows no types.
    """

    label: str = ""
    tool_s: float = 0.0
    tensors: Mapping[str, tuple[float | None, float]] = field(default_factory=dict)

    def to_notes(self) -> dict[str, Json]:
        """What is there of it."""
        return {key: value for key, value in super().to_notes().items() if key != "tensors" or value}

    @property
    def per_type(self) -> bool:
        """Whether it was scaled for one GGUF type alone."""
        return Scaling.from_label(self.label).type is not None


@dataclass(frozen=True)
class Wanted:
    """A scaled checkpoint that is wanted.

    Args:
        scaling: what it is for.
        output: the directory to write.
        types: GGUF type of each tensor, one mapping for each type that it will be quantized to.
    """

    scaling: Scaling
    output: Path
    types: tuple[Mapping[str, str], ...]

    @property
    def scheme(self) -> QuantizationScheme:
        """The same in the words of the search."""
        from ggufkit.awq.search import QuantizationScheme

        return QuantizationScheme(self.scaling.label, self.types, self.scaling.importance)


def scale(
    checkpoint: Checkpoint,
    wanted: Sequence[Wanted],
    calibration: Calibration,
    options: ScalingOptions,
    session: Session,
) -> list[Result]:
    """Scale a checkpoint for each use unless that is done already, in one run over the calibration text.

    Raises:
        UnsupportedArchitecture, CheckpointError, TokenizerError, InputError: it cannot be scaled.
        ToolError: the result is not the same function; nothing is left of it.
    """
    recipes = [_recipe(checkpoint, w, calibration, options, session) for w in wanted]
    stale = [w for w, r in zip(wanted, recipes, strict=True) if session.force or staleness(r, w.output)]
    started = time.monotonic()
    made: dict[Scaling, ScaledCheckpoint] = {}
    if stale:
        with unchanged([Input(checkpoint.path, recipes[0].inputs["checkpoint"], files_of)]):
            made = _scale(checkpoint, stale, calibration, options, session)
    seconds = round(time.monotonic() - started, 3)
    if stale:
        units = checkpoint.n_params * calibration.n_tokens * len(stale)
        durations.note(session.work("awq", units, options.engine), seconds)

    def publish(one: Wanted, partial: Path) -> Made:
        scaled = made[one.scaling]
        scaled.path.rename(partial)
        notes = AwqNotes(one.scaling.label, seconds).to_notes() | calibration.notes.to_notes()
        return Made(notes=notes | scaled.notes())

    return [
        session.ensure(r, w.output, lambda p, w=w: publish(w, p))  # type: ignore[misc]
        for w, r in zip(wanted, recipes, strict=True)
    ]


def as_checkpoint(scaled: Result, original: Checkpoint) -> Checkpoint:
    """A scaled checkpoint under the name of its original."""
    found = open_checkpoint(scaled.path, original.name, original.source, original.revision)
    return replace(found, quantized=original.quantized)


def _recipe(
    checkpoint: Checkpoint, wanted: Wanted, calibration: Calibration, options: ScalingOptions, session: Session
) -> Recipe:
    types = hashlib.sha256(json.dumps([sorted(t.items()) for t in wanted.types]).encode()).hexdigest()
    params = AwqParams(
        options.engine,
        options.objective if options.engine == "native" else None,
        options.dtype,
        wanted.scaling.importance if options.knows_types else None,
        types if options.knows_types else None,
    )
    inputs = {
        "checkpoint": fingerprint(checkpoint.path, session.reporter),
        "calibration_tokens": calibration.tokens_sha256,
    }
    return Recipe(STEP, VERSION, inputs, params.to_params(), session.tools.identity)


def _scale(
    checkpoint: Checkpoint,
    wanted: Sequence[Wanted],
    calibration: Calibration,
    options: ScalingOptions,
    session: Session,
) -> dict[Scaling, ScaledCheckpoint]:
    from ggufkit.awq.engine import AwqOptions, WorkFiles, scale_checkpoint

    targets = [(w.scheme, w.output.with_name(f"{w.output.name}.scaled.partial")) for w in wanted]

    def run(device: str) -> list[ScaledCheckpoint]:
        return scale_checkpoint(
            checkpoint.path,
            targets,
            calibration,
            AwqOptions(options.engine, options.objective, options.dtype == "float32", device, session.threads),
            WorkFiles(
                session.tools.dir, session.workspace.private / "awq-search", session.workspace.log("autoawq")
            ),
            session.reporter,
        )

    scaled = offload.else_on_cpu(run, options.device, session)
    return {w.scaling: s for w, s in zip(wanted, scaled, strict=True)}
