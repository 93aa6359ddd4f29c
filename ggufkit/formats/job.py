"""What an evaluator's process is told, and what it tells."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ggufkit.core.errors import InputError
from ggufkit.core.jsonfile import read_json


@dataclass(frozen=True)
class Job:
    """What to evaluate.

    Args:
        kind, made_of: see `loading.load`.
        logits: the base's, a file or a named pipe.
        beginning: the token that takes the place of each chunk's first, None for none.
        output: where the tokens' figures go, as .npz; what else is told goes beside it, as .json.
        device: "auto" or "cpu".
    """

    checkpoint: str
    kind: str
    made_of: str | None
    logits: str
    beginning: int | None
    output: str
    threads: int
    device: str


@dataclass(frozen=True)
class Evaluated:
    """What became of it.

    Args:
        n_ctx, n_chunks: what was evaluated.
        forward_s: seconds in which transformers computed.
        n_bytes: of the weights, None where they are those of the files.
        refused: message and hint, where it could not be evaluated.
    """

    n_ctx: int = 0
    n_chunks: int = 0
    forward_s: float = 0.0
    n_params: int = 0
    n_bytes: int | None = None
    device: str = "cpu"
    refused: tuple[str, str] | None = None


def told(output: Path) -> Path:
    """Where an evaluation says what became of it."""
    return output.with_suffix(".json")


def read_evaluated(output: Path) -> Evaluated | None:
    """What an evaluation left; None where it ended without a word."""
    try:
        return read_json(told(output), Evaluated)
    except InputError:
        return None
