"""What a multimodal model has besides its text model: the mmproj, which reads images or sound for all of its files."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from ggufkit.core.errors import CheckpointError, InputError, UnsupportedArchitecture
from ggufkit.core.records import Checkpoint, GgufFile
from ggufkit.llama.mmproj import AUTO, NONE, TYPES
from ggufkit.serving import sight
from ggufkit.steps import mmproj
from ggufkit.steps.convert import ConvertOptions
from ggufkit.steps.mmproj import Wanted
from ggufkit.steps.session import Session
from ggufkit.steps.step import Result


@dataclass(frozen=True)
class Part:
    """A checkpoint's mmproj as it is, or will be: `n_bytes` where it is yet to be made, 0 where it is there."""

    checkpoint: Checkpoint
    out_type: str
    output: Path
    n_bytes: int

    def make(self, model: Path, session: Session) -> Result:
        """Make it unless it is there, and have the text model read images with it. Raises GgufkitError."""
        return mmproj.make(Wanted(self.checkpoint, self.out_type, self.output, model, sight.prove), session)


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
    part = Part(model, out_type, output, 0)
    return part if output.exists() else _possible(part, session, is_asked=asked != AUTO)


def _possible(part: Part, session: Session, *, is_asked: bool) -> Part | None:
    try:
        return replace(part, n_bytes=mmproj.n_bytes(part.checkpoint, part.out_type, session))
    except (UnsupportedArchitecture, CheckpointError) as error:
        if is_asked:
            raise
        session.reporter.warn(f"{part.checkpoint.name} is made for text alone: {error.message}")
        return None
