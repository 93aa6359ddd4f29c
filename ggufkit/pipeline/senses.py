"""What a multimodal model has besides its text model: the mmproj, which reads images or sound for all of its files."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from ggufkit.core.errors import (
    CheckpointError,
    GgufError,
    GgufkitError,
    InputError,
    ToolError,
    UnsupportedArchitecture,
)
from ggufkit.core.records import Checkpoint, GgufFile
from ggufkit.llama.mmproj import AUTO, NONE, TYPES
from ggufkit.serving import sight
from ggufkit.steps import mmproj
from ggufkit.steps.convert import ConvertOptions
from ggufkit.steps.mmproj import Wanted
from ggufkit.steps.session import Session
from ggufkit.steps.step import Result

_IN_VAIN = (UnsupportedArchitecture, CheckpointError, GgufError, ToolError)


@dataclass(frozen=True)
class Part:
    """A checkpoint's mmproj as it is, or will be: `n_bytes` where it is yet to be made, 0 where it is there.

    One that was not asked for is left out where llama.cpp cannot do with it.
    """

    checkpoint: Checkpoint
    out_type: str
    output: Path
    n_bytes: int
    is_asked: bool = True

    def make(self, model: Path, session: Session) -> Result | None:
        """Make it unless it is there, and have the text model read images with it. Raises GgufkitError."""
        wanted = Wanted(self.checkpoint, self.out_type, self.output, model, sight.prove)
        try:
            return mmproj.make(wanted, session)
        except _IN_VAIN as error:
            self.leave_out(error, session)
            return None

    def leave_out(self, error: GgufkitError, session: Session) -> None:
        """Warn that there will be none. Raises the error of one that was asked for."""
        if self.is_asked:
            raise error
        session.reporter.warn(f"{self.checkpoint.name} is made for text alone: {error.message}")


def part_of(model: Checkpoint | GgufFile, name: str, options: ConvertOptions, session: Session) -> Part | None:
    """The mmproj that is to be made of a model, None where there is none.

    What llama.cpp cannot read is warned of, and the text model is made alone, unless a type was asked for.

    Raises:
        InputError: a type is asked for of a model that reads text alone, or is a GGUF already.
        UnsupportedArchitecture, CheckpointError: a type is asked for, and the converter cannot make it.
    """
    asked = options.mmproj
    if asked == NONE or (asked == AUTO and isinstance(model, GgufFile)):
        return None
    if isinstance(model, GgufFile):
        message = f"{model.path.name} is a GGUF already: an mmproj is made from the checkpoint."
        raise InputError(message, hint="Give the checkpoint, or leave --mmproj out.")
    if not mmproj.reads_more(model.path):
        if asked == AUTO:
            return None
        raise InputError(f"{model.path} reads neither images nor sound.", hint="Leave --mmproj out.")
    out_type = TYPES[0] if asked == AUTO else asked
    output = session.workspace.root / mmproj.file_name(name, out_type)
    part = Part(model, out_type, output, 0, asked != AUTO)
    if output.exists():
        return part
    try:
        return replace(part, n_bytes=mmproj.n_bytes(model, out_type, session))
    except _IN_VAIN as error:
        part.leave_out(error, session)
        return None
