"""Step: take a user's own high-precision GGUF as the base of a build."""

from __future__ import annotations

import contextlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from ggufkit.core.errors import GgufError
from ggufkit.core.hashing import remember, sha256_file
from ggufkit.core.manifest import Params, manifest_path
from ggufkit.core.records import GgufFile
from ggufkit.llama.gguf import FLOAT_TYPES, read_header
from ggufkit.steps.notes import GgufNotes
from ggufkit.steps.quantize import require_base
from ggufkit.steps.session import Session
from ggufkit.steps.step import Made, Recipe, Result

STEP, VERSION = "adopt", 1  # its first name: directories of earlier versions stay fresh


@dataclass(frozen=True)
class ImportNotes(GgufNotes):
    """What is known of a base that the user brought; `source` is the path of the file."""

    source: str = ""


@dataclass(frozen=True)
class ImportParams(Params):
    """What decides the copy besides the file: the model's name."""

    name: str = ""


def import_gguf(
    gguf: GgufFile, name: str, output: Path, session: Session, *, allow_requantize: bool = False
) -> Result:
    """Put the user's file into the output directory: as a hard link where possible, else as a copy.

    Raises:
        GgufError: the file is quantized already, and `allow_requantize` was not given.
    """
    require_base(read_header(gguf.path), allow_requantize=allow_requantize)
    if gguf.type not in FLOAT_TYPES and not allow_requantize:
        raise GgufError(f"{gguf.path} holds {gguf.type}.", hint="Give an F32, F16 or BF16 file.")

    def make(partial: Path) -> Made:
        with session.reporter.step(f"Taking {gguf.path.name} as the base"):
            _link_or_copy(gguf.path, partial)
        return Made(notes=ImportNotes(name, "plain", gguf.type, str(gguf.path)).to_notes())

    recipe = Recipe(STEP, VERSION, {"gguf": str(gguf.sha256)}, ImportParams(name).to_params())
    here = output.exists() and output.samefile(gguf.path) and not manifest_path(output).exists()
    return session.ensure(recipe, output, make, force=here)


def _link_or_copy(source: Path, target: Path) -> None:
    target.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        os.link(source.resolve(), target)
        remember(target, sha256_file(source))
        return
    shutil.copyfile(source, target)
