"""Does a converted GGUF compute what the checkpoint computes under transformers? Asked while it is converted."""

from __future__ import annotations

import json
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ggufkit.core import machine, process
from ggufkit.core.errors import CheckpointError, ResourceError
from ggufkit.core.process import Surroundings
from ggufkit.core.records import Checkpoint
from ggufkit.core.units import size
from ggufkit.llama import reference
from ggufkit.llama.logits_file import SavedLogits
from ggufkit.llama.reference import Evaluated
from ggufkit.models import same_function
from ggufkit.models.checkpoint import read_config
from ggufkit.models.same_function import Difference
from ggufkit.steps import offload
from ggufkit.steps.load_check import FEW, called, require_computes
from ggufkit.steps.session import Session

ALWAYS_BELOW = 1_000_000_000
"""Parameters of a checkpoint up to which it is compared without being asked for."""

_BYTES, _BESIDE = 4.5, 3 << 29  # of memory for a parameter in float32, and for transformers itself
_BYTES_F32 = 5  # of disk, likewise


@dataclass(frozen=True)
class Comparison:
    """What was found: the relative difference of the logits, or why they were not compared."""

    difference: float | None = None
    why_not: str | None = None


@dataclass(frozen=True)
class Compared:
    """A conversion whose function is compared.

    Args:
        checkpoint, gguf: what was converted to what.
        reference: where the checkpoint's logits are.
        widen: writes the same GGUF in F32.
    """

    checkpoint: Checkpoint
    gguf: Path
    reference: Path
    widen: Callable[[Path, threading.Event], None]

    @property
    def n_ctx(self) -> int:
        """Tokens that are evaluated."""
        return n_tokens(self.checkpoint)


def n_tokens(checkpoint: Checkpoint) -> int:
    """Tokens that are evaluated where functions are compared."""
    return reference.n_tokens(read_config(checkpoint.path))


def is_wanted(checkpoint: Checkpoint, asked: bool | None, session: Session) -> bool:
    """Whether to compare: as asked, else where the checkpoint is small, and fits in memory beside its conversion.

    Raises:
        ResourceError: it is asked for, and does not fit.
    """
    if asked is False or (asked is None and checkpoint.n_params >= ALWAYS_BELOW):
        return False
    needed, free = _BESIDE + int(_BYTES * checkpoint.n_params), machine.free_memory()
    if needed <= free:
        return True
    message = (
        f"To compare {checkpoint.name} with its conversion takes {size(needed)} of memory, {size(free)} are free."
    )
    if asked:
        raise ResourceError(
            message, hint="Close other programs, or leave the comparison out: --no-check-function."
        )
    session.reporter.info(f"{message} It is left out.")
    return False


def compare(compared: Compared, session: Session, stop: threading.Event) -> Comparison:
    """Compare the logits of a GGUF with those of its checkpoint.

    Raises:
        CheckpointError: the checkpoint lacks weights, or the GGUF computes something else.
        GgufError: llama.cpp cannot load it, or computes no numbers with it.
    """
    evaluated = reference.read_evaluated(compared.reference)
    _require_whole(compared.checkpoint, evaluated)
    logits = require_computes(compared.gguf, session, stop, compared.n_ctx)
    if logits is None:
        return Comparison(why_not="llama.cpp evaluates no text with it")
    if evaluated.why_not is None and list(logits.tokens) not in [list(row) for row in evaluated.rows]:
        evaluated = _evaluate(compared.checkpoint.path, logits, compared.reference, stop)
    if evaluated.why_not is not None:
        return Comparison(why_not=evaluated.why_not)
    found, limit = _difference(compared.reference, evaluated, logits), same_function.limit(_config(compared))
    if found.relative > limit:
        needed = _BYTES_F32 * compared.checkpoint.n_params
        if machine.free_disk(session.workspace.scratch) < needed:
            return Comparison(why_not=f"in F32 it takes {size(needed)} of disk")
        found, logits = _in_float32(compared, session, stop) or (found, logits)
    if found.relative > limit:
        raise _other_function(compared, found, logits, session, stop)
    return Comparison(found.relative)


def _config(compared: Compared) -> dict[str, Any]:
    return read_config(compared.checkpoint.path)


def _require_whole(checkpoint: Checkpoint, evaluated: Evaluated) -> None:
    hint = "A shard is missing, or config.json is another model's: download the checkpoint again."
    if evaluated.missing:
        more = f" and {len(evaluated.missing) - 1} more" if len(evaluated.missing) > 1 else ""
        raise CheckpointError(f"{checkpoint.path} has no {evaluated.missing[0]}{more}.", hint=hint)
    if evaluated.mismatched:
        raise CheckpointError(f"{checkpoint.path}: {evaluated.mismatched[0]}.", hint=hint)


def _difference(where: Path, evaluated: Evaluated, logits: SavedLogits) -> Difference:
    import numpy as np

    rows = [list(row) for row in evaluated.rows]
    return same_function.compare(np.load(where, mmap_mode="r")[rows.index(list(logits.tokens))], logits)


def _evaluate(path: Path, logits: SavedLogits, output: Path, stop: threading.Event) -> Evaluated:
    """The checkpoint's logits for the very tokens that llama.cpp had, in a process of its own."""
    reference.remove(output)
    tokens = output.with_suffix(".tokens")
    tokens.write_text(json.dumps([logits.tokens]), encoding="utf-8")
    command = [sys.executable, "-m", "ggufkit.llama.reference", str(path.absolute()), str(tokens), str(output)]
    process.run(command, surroundings=Surroundings(offload.environment()), cancel=stop)
    tokens.unlink()
    return reference.read_evaluated(output)


def _in_float32(
    compared: Compared, session: Session, stop: threading.Event
) -> tuple[Difference, SavedLogits] | None:
    """The difference without the rounding of weights and activations: llama.cpp computes in F32 what is stored so."""
    precise = session.workspace.scratch / f"{called(compared.gguf).removesuffix('.gguf')}-F32.gguf"
    try:
        compared.widen(precise, stop)
        logits = require_computes(precise, session, stop, compared.n_ctx)
    finally:
        precise.unlink(missing_ok=True)
    if logits is None:
        return None
    return _difference(compared.reference, reference.read_evaluated(compared.reference), logits), logits


def _other_function(
    compared: Compared, found: Difference, logits: SavedLogits, session: Session, stop: threading.Event
) -> CheckpointError:
    """The error that names the cause: proven, where a changed setting gives llama.cpp's logits; else guessed."""
    limit = same_function.limit(_config(compared))
    with session.reporter.step("Looking for what llama.cpp computes otherwise"):
        proven = next((w for w, d in _with_changes(compared, logits, stop) if d.relative <= limit), None)
        cause = proven or _guess(compared, found, session, stop)
    message = (
        f"The GGUF of {compared.checkpoint.path} does not compute what the checkpoint does: its logits are "
        f"{found.relative:.1%} off, where rounding explains {limit:.1%}. {cause}"
    )
    hint = "llama.cpp cannot run this model as it is. To convert it all the same, use --no-check-function."
    return CheckpointError(message, hint=hint)


def _with_changes(
    compared: Compared, logits: SavedLogits, stop: threading.Event
) -> Iterator[tuple[str, Difference]]:
    """What llama.cpp may do instead, in words, and how far its logits are from a checkpoint changed so."""
    path = compared.checkpoint.path
    for words, changed in same_function.suspects(read_config(path)):
        with tempfile.TemporaryDirectory(prefix="ggufkit-suspect-") as directory:
            for file in path.iterdir():
                if file.is_file() and file.name != "config.json":
                    (Path(directory) / file.name).symlink_to(file.resolve())
            (Path(directory) / "config.json").write_text(json.dumps(changed), encoding="utf-8")
            output = Path(directory) / "logits.npy"
            evaluated = _evaluate(Path(directory), logits, output, stop)
            if evaluated.rows:
                yield words, _difference(output, evaluated, logits)


def _guess(compared: Compared, found: Difference, session: Session, stop: threading.Event) -> str:
    """A likely cause, by where the logits differ: from the first tokens on, or more with each."""
    early = require_computes(compared.gguf, session, stop, FEW)
    at_start = None
    if early is not None:
        output = compared.reference.with_name("early.npy")
        evaluated = _evaluate(compared.checkpoint.path, early, output, stop)
        at_start = _difference(output, evaluated, early).relative if evaluated.rows else None
        reference.remove(output)
    return same_function.likely_cause(found, at_start)
