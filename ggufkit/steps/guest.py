"""Step: have a GGUF that somebody else made beside one's own results. It stays where it is: here is a link to it.

One in parts, or with padding that the base lacks, is written again as one file that is measured as the others are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ggufkit.core.hashing import remember, sha256_file
from ggufkit.core.inputs import Input
from ggufkit.core.manifest import Params
from ggufkit.core.records import Json
from ggufkit.llama.gguf import GgufHeader, as_one
from ggufkit.llama.rewrite import write_whole
from ggufkit.steps import joining
from ggufkit.steps.import_gguf import copy
from ggufkit.steps.notes import GgufNotes
from ggufkit.steps.session import Session
from ggufkit.steps.step import Made, Recipe, Result

STEP, VERSION = "guest", 1


@dataclass(frozen=True)
class GuestNotes(GgufNotes):
    """What is known of a file of somebody else's; `source` is its path, or "hub:OWNER/NAME/FILE"."""

    source: str = ""


@dataclass(frozen=True)
class GuestParams(Params):
    """What decides the file here besides the one that it is: the tokens kept of its vocabulary, None for all."""

    n_tokens: int | None = None

    def to_params(self) -> dict[str, Json]:
        """What is there of it."""
        return {key: value for key, value in super().to_params().items() if value is not None}


@dataclass(frozen=True)
class Guest:
    """A GGUF of somebody else's.

    Args:
        headers: of the file, or of its parts in order.
        n_tokens: how many tokens of its vocabulary to keep, None for all.
    """

    headers: Sequence[GgufHeader]
    notes: GuestNotes
    n_tokens: int | None = None

    @property
    def n_bytes(self) -> int:
        """Of all its files."""
        return sum(header.size_bytes for header in self.headers)

    @property
    def is_as_it_is(self) -> bool:
        """Whether nothing is to be written again."""
        return len(self.headers) == 1 and self.n_tokens is None


def take(guest: Guest, output: Path, session: Session) -> Result:
    """Have it in the output directory unless it is there already.

    Raises:
        InputError: there is something else of that name.
        GgufError: it is to be written again, and cannot be.
        ResourceError: there is no room for that.
    """
    files = [header.path.absolute() for header in guest.headers]
    reads = [Input(file, sha256_file(file, session.reporter)) for file in files]
    roles = ["gguf"] if len(files) == 1 else [f"part {number}" for number in range(1, len(files) + 1)]
    inputs = {role: read.sha256 for role, read in zip(roles, reads, strict=True)}
    recipe = Recipe(STEP, VERSION, inputs, GuestParams(guest.n_tokens).to_params(), reads=tuple(reads))

    def make(partial: Path) -> Made:
        if not guest.is_as_it_is:
            _write(guest, partial, session)
        elif _link(files[0], partial):
            remember(partial, reads[0].sha256)
        else:
            copy(files[0], reads[0].sha256, partial)
        return Made(notes=guest.notes.to_notes())

    return session.ensure(recipe, output, make)


def _link(file: Path, link: Path) -> bool:
    """A symbolic link; false where there are none."""
    try:
        link.symlink_to(file)
    except OSError:
        return False
    return True


def _write(guest: Guest, target: Path, session: Session) -> None:
    name = guest.headers[0].path.name
    joining.require_room(target, guest.n_bytes, f"{name} is written again")
    what = f"Joining the {len(guest.headers)} parts of {name}" if len(guest.headers) > 1 else f"Cutting {name}"
    with session.reporter.step(what) as progress:
        if guest.n_tokens is None:
            joining.write(as_one(guest.headers), target, progress)
        else:
            write_whole(guest.headers, guest.n_tokens, target, progress)
