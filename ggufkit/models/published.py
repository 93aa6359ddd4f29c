"""GGUFs of publishers: hub:OWNER/NAME/FILE on Hugging Face, ms:OWNER/NAME/FILE on ModelScope -> files on this disk."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from ggufkit.core.errors import GgufError, UsageError
from ggufkit.core.part_names import part_name
from ggufkit.core.paths import user_path
from ggufkit.core.progress import Reporter
from ggufkit.hub import names
from ggufkit.hub.listing import Listing, RemoteFile, Repo, RepoAbsent, recall, require_safe
from ggufkit.hub.obtain import Place, Want, cached, obtain, offline
from ggufkit.llama.gguf_header import GgufHeader, read_own_header
from ggufkit.llama.gguf_reader import MAX_HEADER

HUB, MODELSCOPE = "hub:", "ms:"
FORM = "hub:OWNER/NAME/FILE[@REVISION], or ms:OWNER/NAME/FILE of ModelScope"
_REFERENCE = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)/(?P<file>[^@]+)(?:@(?P<revision>[^@\s]+))?")
_SHOWN = 4
_HEADER_AT_ONCE = 8 << 20
"""Bytes: most headers are shorter."""


@dataclass(frozen=True)
class Published:
    """A GGUF as it is named: on this disk, or at a hub.

    Args:
        path: where it is; of one at a hub its path in the repository.
        repo: OWNER/NAME, "ms:OWNER/NAME" for ModelScope's, "" for a file on this disk.
        revision: "" for the newest.
    """

    path: Path
    repo: str = ""
    revision: str = ""

    @property
    def owner(self) -> str:
        """Who published it; "" for a file on this disk."""
        return self.repo.removeprefix(MODELSCOPE).partition("/")[0]

    @property
    def source(self) -> str:
        """How anybody may name it: without this machine's directories."""
        if not self.repo:
            return self.path.name
        scheme = "" if self.repo.startswith(MODELSCOPE) else HUB
        return f"{scheme}{self.repo}/{self.path.as_posix()}" + (f"@{self.revision}" if self.revision else "")


def read(given: str) -> Published:
    """What a word of a command line names. Raises UsageError where it is neither a path nor a hub's file."""
    if not is_at_hub(given):
        return Published(user_path(given))
    rest = given.removeprefix(HUB)
    scheme = MODELSCOPE if rest.startswith(MODELSCOPE) else ""
    match = _REFERENCE.fullmatch(rest.removeprefix(scheme))
    if match is None:
        raise UsageError(f"{given!r} names no file of a hub.", hint=f"Write {FORM}.")
    return Published(Path(PurePosixPath(match["file"])), scheme + match["repo"], match["revision"] or "")


def is_at_hub(given: str) -> bool:
    """Whether a word names a hub's file."""
    return given.startswith((HUB, MODELSCOPE))


def fetch(named: Published, reporter: Reporter) -> Path:
    """The file on this disk, all its parts beside it; a hub's is downloaded into the hub's cache unless it is there.

    Raises:
        SourceError: the hub refuses, or has no such file.
    """
    if not named.repo:
        return named.path
    wanted = named.path.as_posix()
    return obtain(_places(named), Want(partial(select, wanted=wanted)), reporter).path / wanted


def peek(named: Published, directory: Path, reporter: Reporter) -> list[GgufHeader]:
    """The headers of a hub's file, or of its parts in order, without the rest; none where that is here already.

    Args:
        directory: for what is read of them, while the headers are used.

    Raises:
        SourceError: the hub refuses, or has no such file.
        GgufError: it is no GGUF.
    """
    want, places = Want(partial(select, wanted=named.path.as_posix())), _places(named)
    if offline() or any(cached(place, want) for place in places):
        return []
    found = obtain(places, Want(lambda _repo, _listing: []), reporter, ask_first=True)
    repo, hub = found.place.repo, found.place.hub
    listing = recall(hub, repo)
    if listing is None:
        return []
    files = want.select(repo, listing)
    with reporter.step(f"Reading the header of {named.path.name}"):
        return [_header(partial(hub.first_bytes, repo, listing.commit, file), file, directory) for file in files]


def _header(first_bytes: Callable[[int], bytes], file: RemoteFile, directory: Path) -> GgufHeader:
    target, n_bytes = directory / PurePosixPath(file.path).name, _HEADER_AT_ONCE
    while True:
        target.write_bytes(first_bytes(n_bytes))
        try:
            return read_own_header(target, check_size=False)
        except GgufError:
            if n_bytes >= min(file.size, MAX_HEADER):
                raise
            n_bytes *= 2


def _places(named: Published) -> list[Place]:
    hub = "modelscope" if named.repo.startswith(MODELSCOPE) else "hf"
    return names.places(f"{named.repo}{'@' + named.revision if named.revision else ''}", hub)


def select(repo: Repo, listing: Listing, wanted: str) -> list[RemoteFile]:
    """A file of a repository, with all parts of which it is one.

    Raises:
        SourceError: an unsafe path; or the file, or a part of it, is not there.
    """
    require_safe(repo, listing.files)
    there, name = {file.path: file for file in listing.files}, PurePosixPath(wanted)
    part = part_name(Path(name.name))
    paths = [wanted] if part is None else [str(name.with_name(sibling)) for sibling in part.siblings()]
    if (missing := next((path for path in paths if path not in there), None)) is not None:
        raise RepoAbsent(f"{repo} has no file {missing}.", hint=_others(wanted, there))
    return [there[path] for path in paths]


def _others(wanted: str, there: dict[str, RemoteFile]) -> str:
    ggufs = sorted(path for path in there if path.endswith(".gguf"))
    if not ggufs:
        return "There are no GGUFs in it."
    near = difflib.get_close_matches(wanted, ggufs, _SHOWN, 0.5) or ggufs[:_SHOWN]
    more = f", and {len(ggufs) - len(near)} more" if len(ggufs) > len(near) else ""
    return f"Did you mean {', '.join(near)}{more}?"
