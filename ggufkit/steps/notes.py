"""What manifests say of an artefact whichever step made it."""

from __future__ import annotations

from dataclasses import dataclass, field

from ggufkit.core.manifest import Notes, Params
from ggufkit.core.records import Json, Manifest


@dataclass(frozen=True)
class GgufNotes(Notes):
    """What a GGUF is called, as tables show it; "" where it was made by none of the steps that say so.

    Args:
        name: of the model.
        variant: "plain", "imatrix", "awq"…
        type: "F16", "Q4_K_M"…
    """

    name: str = ""
    variant: str = ""
    type: str = ""


@dataclass(frozen=True)
class TypedNotes(GgufNotes):
    """The same of a file whose type may be none of llama-quantize's.

    `target` is how its type is typed, "like:q4_k_m"; "", and missing in the manifest, for a name of llama-quantize.
    """

    target: str = field(default="", kw_only=True)

    def to_notes(self) -> dict[str, Json]:
        """What is there of it."""
        return {key: value for key, value in super().to_notes().items() if key != "target" or value}


@dataclass(frozen=True)
class _Ran(Notes):
    """Where torch computed, and the seconds of a tool whose result was published later."""

    device: str = ""
    tool_s: float = 0.0


@dataclass(frozen=True)
class _Backend(Params):
    """Where llama.cpp computed."""

    backend: str = "cpu"


def backend_of(made: Manifest) -> str:
    """The backend that a step computed on: "cpu", "cuda", "metal"…"""
    backend = _Backend.from_manifest(made).backend
    return "cuda" if backend == "cpu" and _Ran.from_manifest(made).device == "cuda" else backend


def seconds_of(made: Manifest) -> float:
    """How long a step worked, its tool included where that had ended before."""
    return max(made.duration_s, _Ran.from_manifest(made).tool_s)
