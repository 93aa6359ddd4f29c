"""Step: what reads images or sound, out of a multimodal checkpoint, as a GGUF beside the text model's."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from ggufkit.core import extras, process
from ggufkit.core.errors import CheckpointError, GgufError, ToolchainError, ToolError, UnsupportedArchitecture
from ggufkit.core.inputs import Input
from ggufkit.core.manifest import Notes, Params
from ggufkit.core.process import Surroundings, ToolOutput
from ggufkit.core.records import Checkpoint
from ggufkit.llama import argv, mmproj, toolchain
from ggufkit.llama.argv import Conversion
from ggufkit.llama.gguf import GgufHeader, read_header
from ggufkit.llama.mmproj import PREFIX, Projector
from ggufkit.models.checkpoint import read_config, stored_tensors
from ggufkit.models.files import files_of, fingerprint
from ggufkit.steps import convert, offload
from ggufkit.steps.session import Session
from ggufkit.steps.step import Made, Recipe, Result

STEP, VERSION = "mmproj", 1
_CHECKPOINT = "checkpoint"
_SENSES = re.compile(r"(^|\.)\w*(vision|visual|audio)\w*\.")
_CONFIGS = ("vision_config", "audio_config", "vision_encoder", "thinker_config")
_ALONE = "--mmproj none makes the text model alone; or see the log."


@dataclass(frozen=True)
class MmprojParams(Params):
    """What decides the file besides the checkpoint."""

    out_type: str = ""
    name: str = ""


@dataclass(frozen=True)
class MmprojNotes(Notes):
    """What is known of the file.

    Args:
        of: the model's name.
        reads: what it reads, in words.
        image_tokens: of the context that an image of 224 x 224 takes; None where none was looked at.
        image_difference: the largest by which another image changes log-probabilities of an answer's first token.
    """

    of: str = ""
    reads: str = ""
    image_tokens: int | None = None
    image_difference: float | None = None


@dataclass(frozen=True)
class Sight:
    """What an image does to an answer.

    Args:
        n_tokens: that it takes of the context.
        difference: the largest between log-probabilities of the answer's first token, from one image to another.
    """

    n_tokens: int
    difference: float

    def __str__(self) -> str:
        """In words."""
        return f"an image takes {self.n_tokens} tokens; another one changes log-probabilities by {self.difference:.2g}"


@dataclass(frozen=True)
class Wanted:
    """What is made of a checkpoint.

    Args:
        out_type: one of `TYPES`.
        output: where it goes.
        model: the text model, which it belongs to.
        prove: has the model read images with it.
    """

    checkpoint: Checkpoint
    out_type: str
    output: Path
    model: Path
    prove: Callable[[Path, Path, Session], Sight]


def reads_more(path: Path) -> bool:
    """Whether a checkpoint reads images or sound besides text, by its config.json and its tensors."""
    config = read_config(path)
    if not any(isinstance(config.get(name), dict) for name in _CONFIGS):
        return False
    return any(_SENSES.search(tensor.name) for tensor in stored_tensors(path))


def file_name(model: str, out_type: str) -> str:
    """The name of the file, as publishers have it: `mmproj-<model>-F16.gguf`."""
    return f"{PREFIX}{model}-{out_type.upper()}.gguf"


def make(wanted: Wanted, session: Session) -> Result:
    """Convert what reads images or sound to a file of its own, unless that is done already.

    Raises:
        UnsupportedArchitecture, CheckpointError: the converter cannot.
        GgufError: it is not the text model's, holds no numbers, or images change nothing.
        ToolError: the converter failed, or llama-server with the file.
    """
    checkpoint, output = wanted.checkpoint, wanted.output
    before = Input(checkpoint.path, fingerprint(checkpoint.path, session.reporter), files_of)
    params = MmprojParams(wanted.out_type, checkpoint.name).to_params()
    recipe = Recipe(STEP, VERSION, {_CHECKPOINT: before.sha256}, params, session.tools.identity, (before,))
    work = session.work("mmproj", checkpoint.n_params)
    return session.ensure(recipe, output, lambda partial: _make(wanted, partial, session), work=work)


def n_bytes(checkpoint: Checkpoint, out_type: str, session: Session) -> int:
    """How large the file will be, in seconds and without its weights.

    Raises:
        UnsupportedArchitecture, CheckpointError: the converter cannot make it.
    """
    with tempfile.TemporaryDirectory(prefix="ggufkit-plan-") as temporary:
        skeleton = Path(temporary) / "skeleton.gguf"
        _converted(process.run([*_command(checkpoint, skeleton, out_type, session), "--skeleton"]), skeleton)
        return skeleton.stat().st_size


def _make(wanted: Wanted, partial: Path, session: Session) -> Made:
    checkpoint, doing = wanted.checkpoint, f"Converting what {wanted.checkpoint.name} reads besides text"
    log = session.workspace.log(f"convert-{wanted.output.stem}")
    with session.reporter.step(doing):
        where = Surroundings(offload.environment())
        run = process.run(_command(checkpoint, partial, wanted.out_type, session), surroundings=where, log=log)
        _converted(run, partial)
    made = mmproj.read_projector(partial)
    _require_numbers(read_header(partial), wanted.output.name)
    mmproj.require_belongs(made, read_header(wanted.model))
    notes, sight = MmprojNotes(checkpoint.name, made.reads), _look(made, wanted, session)
    if sight is not None:
        notes = replace(notes, image_tokens=sight.n_tokens, image_difference=sight.difference)
    return Made([run], notes.to_notes())


def _command(checkpoint: Checkpoint, output: Path, out_type: str, session: Session) -> list[str]:
    extras.require("convert")
    source = toolchain.converter_source(session.tools, session.reporter)
    return [*argv.convert(source, checkpoint.path, output, Conversion(out_type, checkpoint.name)), "--mmproj"]


def _converted(output: ToolOutput, result: Path) -> None:
    try:
        convert.require_converted(output, result)
    except (CheckpointError, UnsupportedArchitecture) as error:
        raise type(error)(error.message, hint=_ALONE, log=error.log) from error


def _look(made: Projector, wanted: Wanted, session: Session) -> Sight | None:
    if not made.sees:
        session.reporter.warn(f"{wanted.output.name} reads {made.reads}: it is not tried.")
        return None
    try:
        return wanted.prove(wanted.model, made.path, session)
    except ToolchainError as error:
        session.reporter.warn(f"{wanted.output.name} is not tried with images: {error.message}")
        return None
    except (GgufError, ToolError) as error:
        raise type(error)(error.message, hint=_ALONE, log=error.log) from error


def _require_numbers(header: GgufHeader, name: str) -> None:
    """Weights that F16 cannot hold would be infinite."""
    import numpy as np

    for tensor in header.tensors:
        if tensor.type not in ("F16", "F32"):
            continue
        kind = np.float16 if tensor.type == "F16" else np.float32
        values = np.memmap(header.path, kind, "r", tensor.offset, (tensor.n_elements,))
        if not np.isfinite(values).all():
            hint = "Use --mmproj bf16, which holds larger numbers than F16; or the checkpoint is broken."
            raise GgufError(f"{name} would hold NaN or infinite weights: {tensor.name}.", hint=hint)
