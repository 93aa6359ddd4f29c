"""Data sets of hubs, and texts that are made of them: which hub answers, ModelScope's tables, files of the cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from functools import partial
from pathlib import Path

from ggufkit.core.errors import CorpusError
from ggufkit.core.hashing import remember, sha256_file
from ggufkit.core.locks import waiting_lock
from ggufkit.core.progress import Reporter
from ggufkit.hub import modelscope
from ggufkit.hub.listing import HubUnreachable, Listing, RemoteFile, Repo
from ggufkit.hub.obtain import Place, Want, obtain


@contextmanager
def making(target: Path, reporter: Reporter) -> Iterator[Path]:
    """A path to write to, renamed to `target` when something was written; leftovers are removed."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial_path = target.with_name(target.name + ".partial")
    with waiting_lock(target.with_name(target.name + ".lock"), target.name, reporter):
        partial_path.unlink(missing_ok=True)
        try:
            yield partial_path
        finally:
            partial_path.with_suffix(".rows").unlink(missing_ok=True)
        if partial_path.is_file():
            digest = sha256_file(partial_path)
            partial_path.replace(target)
            remember(target, digest)


def answers(ask: Callable[[Repo], object], repo: Repo) -> bool:
    """Whether a hub answers at all: `datasets` waits for minutes for one that is out of reach; one question tells."""
    try:
        ask(repo)
    except HubUnreachable:
        return False
    return True


def modelscope_tables(name: str, config: str | None, split: str, reporter: Reporter) -> list[Path]:
    """The Parquet files in which ModelScope keeps the rows of a split."""
    return split_tables([Place(modelscope, Repo(name, kind="dataset"))], config, split, reporter)


def split_tables(places: Sequence[Place], config: str | None, split: str, reporter: Reporter) -> list[Path]:
    """The Parquet files of a split, from a cache or from the first hub that answers, checked against its hashes.

    Args:
        config: the directory that they are below, None for any.

    Raises:
        SourceError: it is nowhere.
    """
    want = Want(partial(_parquet_files, config, split))
    found = obtain(places, want, reporter)
    return sorted(
        p for p in found.path.rglob("*.parquet") if _is_part(str(p.relative_to(found.path)), config, split)
    )


def _parquet_files(config: str | None, split: str, repo: Repo, listing: Listing) -> list[RemoteFile]:
    files = [f for f in listing.files if _is_part(f.path, config, split)]
    if not files:
        raise CorpusError(f"{repo} has no Parquet files of split {split!r}.", hint="Name another split.")
    return files


def _is_part(path: str, config: str | None, split: str) -> bool:
    inside = config is None or config in Path(path).parts
    return inside and fnmatch(Path(path).name, f"{split}*.parquet")
