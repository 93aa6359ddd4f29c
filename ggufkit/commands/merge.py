"""`ggufkit merge`: parts of a GGUF as one file again, also where they were joined end to end."""

from __future__ import annotations

from pathlib import Path

from ggufkit.commands.places import beside
from ggufkit.core.errors import InputError
from ggufkit.core.hashing import sha256_file
from ggufkit.core.inputs import Input
from ggufkit.core.manifest import read_manifest
from ggufkit.core.part_names import whole_of
from ggufkit.core.progress import Reporter
from ggufkit.llama import part_set, whole
from ggufkit.llama.gguf import GgufHeader, as_one, named_type, read_gguf, read_header, summarize
from ggufkit.llama.gguf_header import joined_headers
from ggufkit.models import sources
from ggufkit.request import RunOptions
from ggufkit.steps import division, joining, step
from ggufkit.steps.notes import GgufNotes
from ggufkit.steps.step import Made, Recipe, Result, Workspace

STEP, VERSION = "merge", 1
_SPLIT_COUNT = "split.count"


def merge(gguf: Path, out: Path | None, run: RunOptions, reporter: Reporter) -> Result:
    """The whole file of a GGUF in parts, of which any is given; the parts stay.

    Args:
        gguf: a part; or a file of all of them, as `cat` writes it; or one that says of itself that it was joined.
        out: the directory that it goes to, by default that of the parts.

    Raises:
        GgufError: a part is missing, or another file's.
        InputError: it is whole already, or a file is in the way.
        ResourceError: there is no room.
    """
    joined = joined_headers(gguf)
    header = _open(gguf, joined)
    where = out or beside(gguf)
    target = where / whole_of(header.path).name
    if target.exists() and target.samefile(gguf):
        message = f"The whole file would be called as {gguf}, which it is made from."
        raise InputError(message, hint="Give another directory with --out.")
    with Workspace(where).locked():
        if _is_ours(header):
            return division.rejoined(header.path, target, reporter, force=run.force)
        return _merge(header, target, run, reporter)


def _open(gguf: Path, joined: list[GgufHeader]) -> GgufHeader:
    if len(joined) > 1:
        missing = joined[0].n_parts - len(joined)
        if missing > 0:
            message = f"{gguf} holds {len(joined)} of {joined[0].n_parts} parts of a split GGUF."
            raise InputError(message, hint="Get the parts anew, and give the first of them.")
        part_set.require_set(joined)
        return as_one(joined)
    header = read_header(gguf)
    if not header.parts and _SPLIT_COUNT not in header.metadata:
        raise InputError(f"{gguf} is whole.", hint="Give a part of a split GGUF, NAME-00001-of-00003.gguf.")
    read_gguf(gguf)  # its parts are of one model
    return header


def _is_ours(header: GgufHeader) -> bool:
    """Whether ggufkit made the parts; the whole file is then what its manifest says."""
    made = read_manifest(header.path)
    return made is not None and bool(header.parts) and all(file.name in made.output for file in header.files)


def _merge(header: GgufHeader, target: Path, run: RunOptions, reporter: Reporter) -> Result:
    files = [file.absolute() for file in dict.fromkeys(header.files)]
    reads = tuple(Input(file, sha256_file(file, reporter)) for file in files)
    digest = whole.digest(header, reporter)
    inputs = {f"part {number}": read.sha256 for number, read in enumerate(reads, 1)}
    recipe = Recipe(STEP, VERSION, inputs, reads=reads)
    kind = named_type(header) or summarize(header).type
    notes = GgufNotes(sources.name_of(target), "plain", kind)

    def make(partial: Path) -> Made:
        joining.join(header, digest, partial, reporter)
        return Made(notes=notes.to_notes())

    return step.ensure(recipe, target, make, force=run.force, explain=reporter if run.explain else None)
