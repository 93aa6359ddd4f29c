"""Step: take a user's own high-precision GGUF as the base of a build."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from ggufkit.core import machine
from ggufkit.core.errors import GgufError, ResourceError
from ggufkit.core.expected import timed
from ggufkit.core.hashing import remember, sha256_file
from ggufkit.core.manifest import PARTIAL, Params, manifest_path
from ggufkit.core.records import GgufFile
from ggufkit.core.units import size
from ggufkit.llama.gguf import FLOAT_TYPES, PartedGguf, read_header
from ggufkit.steps import joining, load_check
from ggufkit.steps.notes import GgufNotes
from ggufkit.steps.quantize import require_base
from ggufkit.steps.session import Session
from ggufkit.steps.step import Made, Recipe, Result

STEP, VERSION = "adopt", 1  # its first name: directories of earlier versions stay fresh
_FICLONE = 0x40049409


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
    """Put a copy of the user's file into the output directory; file systems that can let both share their blocks.

    Never a hard link: whoever wrote into the user's file would write into the finished one.

    Raises:
        GgufError: the file is quantized already, and `allow_requantize` was not given.
        ResourceError: there is no room for a copy.
    """
    require_base(read_header(gguf.path), allow_requantize=allow_requantize)
    if gguf.type not in FLOAT_TYPES and not allow_requantize:
        raise GgufError(f"{gguf.path} holds {gguf.type}.", hint="Give an F32, F16 or BF16 file.")
    work = session.work("import", gguf.size_bytes)
    itself = output.exists() and output.resolve() == gguf.path.resolve()

    def make(partial: Path) -> Made:
        with timed(session.reporter, f"Taking {gguf.path.name} as the base", work, remember=False):
            if isinstance(gguf, PartedGguf):
                joining.join(read_header(gguf.path), str(gguf.sha256), partial, session.reporter)
            elif not (_link(gguf, partial) if itself else clone(gguf, partial)):
                copy(gguf.path, str(gguf.sha256), partial)
            load_check.require_computes(partial, session)
        return Made(notes=ImportNotes(name, "plain", gguf.type, str(gguf.path)).to_notes())

    inputs = {"gguf": str(gguf.sha256)}
    recipe = Recipe(STEP, VERSION, inputs, ImportParams(name).to_params(), reads=(gguf.as_input(),))
    linked = output.exists() and output.samefile(gguf.path) and not itself
    here = itself and not manifest_path(output).exists()
    return session.ensure(
        recipe, output, make, force=here or linked, why=f"it is a hard link to {gguf.path}", work=work
    )


def _link(gguf: GgufFile, target: Path) -> bool:
    """Where the file is at its place already, and only lacks a manifest; False if there are no hard links."""
    digest = sha256_file(gguf.path)
    try:
        os.link(gguf.path.resolve(), target)
    except OSError:
        return False
    for name in (gguf.path, target):
        remember(name, digest)
    return True


def clone(gguf: GgufFile, target: Path) -> bool:
    """Make `target` a file of its own that shares its blocks with another until one of them is written to.

    Btrfs, XFS and some others can; it takes no time and no room. False where it is not possible.
    """
    if sys.platform != "linux" or isinstance(gguf, PartedGguf):
        return False
    import fcntl

    try:
        with gguf.path.open("rb") as original, target.open("wb") as copy:
            fcntl.ioctl(copy.fileno(), _FICLONE, original.fileno())
    except OSError:
        target.unlink(missing_ok=True)
        return False
    remember(target, str(gguf.sha256))
    return True


def can_clone(gguf: GgufFile, session: Session) -> bool:
    """Whether a file takes no room in the output directory."""
    probe = session.workspace.private / f"probe{PARTIAL}"
    try:
        return clone(gguf, probe)
    finally:
        probe.unlink(missing_ok=True)


def copy(file: Path, sha256: str, target: Path) -> None:
    """Copy a file.

    Raises:
        ResourceError: there is no room.
        GgufError: the copy is not equal to it.
    """
    n_bytes, free = file.stat().st_size, machine.free_disk(target)
    if free < n_bytes:
        message = f"A copy of {file} takes {size(n_bytes)} of disk, {size(free)} are free at {target.parent}."
        hint = f"Free some space, choose another --out, or move the file there: to {target.parent}."
        raise ResourceError(message, hint=hint)
    shutil.copyfile(file, target)
    if sha256_file(target) != sha256:
        raise GgufError(f"The copy of {file} is not equal to it.", hint="Is something wrong with the disk?")
