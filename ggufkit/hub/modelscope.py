"""ModelScope, in the cache of `modelscope_hub` (which `modelscope` is built on), and with its login."""

from __future__ import annotations

import logging
import os
import re
import shutil
import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlencode, urlparse

import msgspec

from ggufkit.core import extras
from ggufkit.core.errors import SourceError
from ggufkit.core.progress import Reporter
from ggufkit.hub import failures
from ggufkit.hub.downloads import Content, by_content, download_all, one_display, size_of, unfinished, watching
from ggufkit.hub.failures import Hints
from ggufkit.hub.http import Access, Pages
from ggufkit.hub.listing import (
    MAX_FILES,
    Listing,
    RemoteFile,
    Repo,
    RepoAbsent,
    defect,
    require_sane,
    require_there,
)

if TYPE_CHECKING:
    from modelscope_hub import HubApi, HubConfig

KEY = "ms"
TITLE = "ModelScope"
DEFAULT_HOST = "https://modelscope.cn"
HINTS = Hints(
    gated="Ask for access at {host}/models/{id}, then set MODELSCOPE_API_TOKEN, or log in with `modelscope login`.",
    absent="Check the spelling; `ggufkit models` lists aliases with both hubs' names.",
    busy="Wait a little and repeat.",
    unreached="Check the network or the proxy, or use --from hf.",
    broken="Repeat the command later.",
    changed="A proxy or a mirror changed it, or it has changed on the hub. Repeat the command.",
)

_COMMIT = re.compile(r"[0-9A-Za-z._-]{1,100}")
_SILENCE_S = 20.0
_PAGE, _CUT_AT = 200, 3000
"""Files of a page of a data set's listing, and how many the hub lists of a model at most."""


def host() -> str:
    """`MODELSCOPE_ENDPOINT` or `MODELSCOPE_DOMAIN`, or the hub itself."""
    given = os.environ.get("MODELSCOPE_ENDPOINT") or os.environ.get("MODELSCOPE_DOMAIN") or DEFAULT_HOST
    return (given if urlparse(given).scheme in ("http", "https") else f"https://{given}").rstrip("/")


def cache() -> Path:
    """The library's cache, found as the library does, without loading it."""
    return Path(os.environ.get("MODELSCOPE_CACHE") or Path.home() / ".cache" / "modelscope").expanduser().resolve()


def directory(repo: Repo, commit: str) -> Path:  # noqa: ARG001 - the library files snapshots under the revision's name
    """Where the library keeps a revision: the layout of versions before 1.38 first, as the library does."""
    owner, _, name = repo.id.partition("/")
    old = [root / f"{repo.kind}s" / owner / name.replace(".", "___") for root in (cache(), cache() / "hub")]
    new = cache() / f"{repo.kind}s" / repo.id.replace("/", "--") / "snapshots" / (repo.revision or "master")
    return next((path for path in old if path.is_dir() and any(path.iterdir())), new)


def list_cached(repo: Repo) -> Listing | None:
    """What another tool left in the cache; no hashes are kept there."""
    where = directory(repo, "")
    if not where.is_dir():
        return None
    files = (RemoteFile(f.name, f.stat().st_size) for f in sorted(where.iterdir()) if f.is_file())
    return Listing(repo.revision or "master", tuple(files))


def client() -> HubApi:
    """The library's client, for uploads. Raises MissingExtra as `access` does."""
    config = _config()
    from modelscope_hub import HubApi

    return HubApi(config)


def _config() -> HubConfig:
    extras.require("modelscope")
    one_display()
    from modelscope_hub import HubConfig

    logging.getLogger("modelscope_hub").setLevel(logging.CRITICAL)
    return HubConfig(endpoint=host(), cache_dir=cache())


class _Entry(msgspec.Struct, rename="pascal"):
    """A file or a directory, as the API lists it."""

    path: str
    type: str | None = None
    size: int | None = None
    sha256: str | None = None
    revision: str | None = None
    committed_date: int | None = None

    def described(self) -> RemoteFile:
        return RemoteFile(self.path, self.size or 0, self.sha256.lower() if self.sha256 else None)


class _Files(msgspec.Struct, rename="pascal"):
    files: list[_Entry] | None = None


class _Page(msgspec.Struct, rename="pascal"):
    data: _Files | list[_Entry] | None = None

    def entries(self) -> list[_Entry]:
        return (self.data.files or []) if isinstance(self.data, _Files) else self.data or []


def access() -> Access:
    """How the hub is asked: with the user's token, if there is one, in both ways that it knows.

    Raises:
        MissingExtra: the library is not installed, which knows the login.
    """
    token = (_config().token or "").strip()
    identity = {"Authorization": f"Bearer {token}", "Cookie": f"m_session_id={token}"} if token else {}
    return Access(host(), identity, float(os.environ.get("MODELSCOPE_DOWNLOAD_TIMEOUT") or _SILENCE_S))


def list_files(repo: Repo) -> Listing:
    """Ask the hub what a revision holds.

    The commit is that of the newest file: the hub tells for each file which commit changed it last.
    """
    entries = [e for e in _entries(repo) if (e.type or "blob") != "tree"]
    if not entries:
        # An unknown revision is no error to this hub: it lists nothing.
        hint = "Its default branch is `master`; give a branch or tag that exists."
        raise RepoAbsent(f"{host()} lists no files for {repo}: is there such a revision?", hint=hint)
    commit = max(entries, key=lambda e: e.committed_date or 0).revision or repo.revision or "master"
    if not _COMMIT.fullmatch(commit):
        raise SourceError(f"{host()} gives no commit for {repo}.", hint="Is MODELSCOPE_ENDPOINT right?")
    return require_sane(repo, Listing(commit, tuple(e.described() for e in entries)))


def _entries(repo: Repo) -> list[_Entry]:
    """All pages of a data set; of a model its one page, and where that is cut the files outside of directories."""
    pages, page = Pages(access(), str(repo)), partial(_page_address, repo)

    def get(url: str) -> list[_Entry]:
        return failures.patiently(partial(pages.get, url, _Page), repo, host(), HINTS)[0].entries()

    if repo.kind == "model":
        found = get(page(Recursive="True"))
        if len(found) < _CUT_AT:
            return found
        return [*(e for e in found if "/" in e.path), *get(page(Recursive="False"))]
    found, number = list[_Entry](), 1
    while len(found) <= MAX_FILES:
        more = get(page(Recursive="True", PageNumber=number, PageSize=_PAGE))
        found, number = found + more, number + 1
        if len(more) < _PAGE:
            break
    return found


def _page_address(repo: Repo, **query: str | int) -> str:
    what = "files" if repo.kind == "model" else "tree"
    asked = urlencode({"Revision": repo.revision or "master", **query})
    return f"{host()}/api/v1/{repo.kind}s/{repo.id}/repo/{what}?{asked}"


def fetch(repo: Repo, listing: Listing, files: Sequence[RemoteFile], reporter: Reporter) -> Path:
    """Bring files into the cache, several at a time; what is there and whole is left alone.

    Raises:
        SourceError: the hub refuses, stalls, or sends something else than it lists.
    """
    where, way = directory(repo, listing.commit), access()
    missing = [file for file in files if defect(where / file.path, file)]
    contents = by_content(missing, lambda file: file.sha256 or file.path)
    jobs = [partial(_bring, _content(way, repo, same[0]), where, same) for same in contents.values()]

    def size() -> int:
        names = [where / same[0].path for same in contents.values()]
        return sum(size_of(name) or size_of(unfinished(name)) for name in names)

    title, total = f"Downloading {repo.id} from {host()}", sum(same[0].size for same in contents.values())
    with watching(title, size, total, reporter):
        download_all(jobs)
    require_there(repo, where, files)
    return where


def first_bytes(repo: Repo, commit: str, file: RemoteFile, n_bytes: int) -> bytes:  # noqa: ARG001 - of a revision, as `directory`
    """The beginning of a file. Raises SourceError where the hub refuses."""
    content = _content(access(), repo, file)
    get = partial(content.access.first_bytes, content.url, n_bytes)
    return failures.patiently(get, repo, host(), HINTS, file.path)


def _content(way: Access, repo: Repo, file: RemoteFile) -> Content:
    asked = urlencode({"Revision": repo.revision or "master", "FilePath": file.path})
    return Content(way, HINTS, repo, file, f"{host()}/api/v1/{repo.kind}s/{repo.id}/repo?{asked}")


def _bring(content: Content, where: Path, same: Sequence[RemoteFile], cancel: threading.Event) -> None:
    """A content under its first name, and copies of it under its others: this cache has files, not links."""
    first, *others = [where / file.path for file in same]
    for path in (first, *others):
        path.parent.mkdir(parents=True, exist_ok=True)
    content.bring(first, cancel)
    for path in others:
        shutil.copyfile(first, unfinished(path))
        unfinished(path).replace(path)
