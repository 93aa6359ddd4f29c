"""A repository's files on this disk: from a cache, or from the hub that answers."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ggufkit.core import machine
from ggufkit.core.errors import CheckpointError, ResourceError, SourceError
from ggufkit.core.locks import waiting_lock
from ggufkit.core.progress import Reporter
from ggufkit.core.units import size
from ggufkit.hub.listing import Hub, HubUnreachable, Listing, RemoteFile, Repo, defect, lock_file, recall, remember


@dataclass(frozen=True)
class Want:
    """What is wanted of a repository.

    Args:
        select: which files of a listing; raises SourceError when they are not there.
        check: raises CheckpointError when a directory that another tool filled is not whole.
    """

    select: Callable[[Repo, Listing], list[RemoteFile]]
    check: Callable[[Path], object] = lambda _path: None


@dataclass(frozen=True)
class Place:
    """Where a repository may be had."""

    hub: Hub
    repo: Repo


@dataclass(frozen=True)
class Snapshot:
    """Files of a repository at one commit, whole and checked against the hub's hashes."""

    path: Path
    place: Place
    commit: str


def offline() -> bool:
    """Whether the user forbids the network."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def obtain(places: Sequence[Place], want: Want, reporter: Reporter, *, ask_first: bool = False) -> Snapshot:
    """The files of a repository that can be had from any of several places, the best first.

    Args:
        ask_first: ask the hub for its newest commit even if there is one in the cache.

    Raises:
        SourceError: it is nowhere, or not as it should be.
    """
    if not ask_first or offline():
        for place in places:
            if (found := cached(place, want)) is not None:
                reporter.info(f"{place.repo}: commit {found.commit[:12]} from {place.hub.TITLE}'s cache.")
                return found
    if offline():
        names = " or ".join(str(place.repo) for place in places)
        hint = "Unset it for the first download, or give a local directory."
        raise HubUnreachable(f"{names} is not in the cache, and HF_HUB_OFFLINE is set.", hint=hint)
    return _from_first_that_answers(places, want, reporter)


def _from_first_that_answers(places: Sequence[Place], want: Want, reporter: Reporter) -> Snapshot:
    unreached: list[HubUnreachable] = []
    for place in places:
        try:
            return _download(place, want, reporter)
        except HubUnreachable as error:
            unreached.append(error)
            if place is not places[-1]:
                reporter.info(f"{error.message} Trying {places[len(unreached)].hub.TITLE}.")
    for place in places:
        if (found := cached(place, want)) is not None:
            reporter.warn(
                f"{unreached[0].message} Using commit {found.commit[:12]} of {place.repo} from the cache."
            )
            return found
    message = " ".join(error.message for error in unreached)
    elsewhere = "" if any(place.hub.KEY != "hf" for place in places) else " Or ask ModelScope: --from modelscope."
    raise HubUnreachable(message, hint=f"{unreached[0].hint or ''}{elsewhere}".strip() or None)


def cached(place: Place, want: Want) -> Snapshot | None:
    """What is in a hub's cache, if it is whole: by the hub's own listing, or else by what lies there."""
    known = recall(place.hub, place.repo)
    listing = known or place.hub.list_cached(place.repo)
    if listing is None:
        return None
    where = place.hub.directory(place.repo, listing.commit)
    try:
        whole = not any(defect(where / file.path, file) for file in want.select(place.repo, listing))
        if known is None:
            want.check(where)
    except (SourceError, CheckpointError):
        return None
    return Snapshot(where, place, listing.commit) if whole else None


def _download(place: Place, want: Want, reporter: Reporter) -> Snapshot:
    hub, repo = place.hub, place.repo
    with reporter.step(f"Asking {hub.host()} for {repo}"):
        listing = hub.list_files(repo)
    wanted = want.select(repo, listing)
    lock = lock_file(hub, repo)
    lock.parent.mkdir(parents=True, exist_ok=True)
    with waiting_lock(lock, f"download of {repo}", reporter):
        where = hub.directory(repo, listing.commit)
        missing = [file for file in wanted if defect(where / file.path, file)]
        if missing:
            _require_room(sum(file.size for file in missing), where)
            where = hub.fetch(repo, listing, wanted, reporter)
    remember(hub, repo, listing)
    return Snapshot(where, place, listing.commit)


def _require_room(n_bytes: int, where: Path) -> None:
    free = machine.free_disk(where)
    if n_bytes > free:
        message = f"The download needs {size(n_bytes)} of disk, {where} has {size(free)} free."
        raise ResourceError(message, hint="Free some space, or move the hub's cache: HF_HOME, MODELSCOPE_CACHE.")
