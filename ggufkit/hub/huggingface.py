"""Hugging Face and its mirrors, in `huggingface_hub`'s cache.

The cache's layout is documented (https://huggingface.co/docs/huggingface_hub/guides/manage-cache): `blobs/<hash>`,
`snapshots/<commit>/<file>` linked to them, `refs/<revision>` with a commit. A blob gets its name only when its hash is
right, and is downloaded once, whatever number of names its content has. Where the hub serves by xet, the library fetches
the blob itself.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shutil
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from ggufkit.core.errors import SourceError
from ggufkit.core.hashing import remember
from ggufkit.core.jsonfile import parse_json
from ggufkit.core.progress import Reporter
from ggufkit.hub import failures
from ggufkit.hub.downloads import Content, by_content, download_all, one_display, size_of, watching
from ggufkit.hub.failures import Hints
from ggufkit.hub.http import Access, Pages
from ggufkit.hub.listing import MAX_FILES, Listing, RemoteFile, Repo, defect, require_sane, require_there

T = TypeVar("T")

KEY = "hf"
TITLE = "Hugging Face"
DEFAULT_HOST = "https://huggingface.co"
HINTS = Hints(
    gated="Ask for access at {host}/{id}, then log in with `hf auth login`, or set HF_TOKEN.",
    absent="Check the spelling (`ggufkit models` lists aliases); there is no such directory here either. "
    "For a private one: `hf auth login`, or HF_TOKEN.",
    busy="Wait a little; logging in (`hf auth login`) raises the limit.",
    unreached="Check the network or the proxy, or use a mirror: HF_ENDPOINT=https://hf-mirror.com.",
    broken="Repeat later, or use another HF_ENDPOINT.",
    changed="A proxy or a mirror changed it, or it has changed on the hub. Repeat the command, or set another HF_ENDPOINT.",
)

_COMMIT = re.compile(r"[0-9a-f]{40}")
_HEADER_AT_ONCE = 100_000
"""Bytes: most headers are shorter."""
_LONGEST_HEADER = 25_000_000
"""Bytes, as the library has it: a hundred times the longest that is known."""
_NO_HEADER = "Have it converted by its author, or tell the hub about it."


def host() -> str:
    """`HF_ENDPOINT`, or the hub itself."""
    return (os.environ.get("HF_ENDPOINT") or DEFAULT_HOST).rstrip("/")


def cache() -> Path:
    """The library's cache, found as the library does, without loading it."""
    explicit = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    if explicit:
        return Path(os.path.expandvars(explicit)).expanduser()
    home = os.environ.get("HF_HOME")
    general = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return (Path(os.path.expandvars(home)).expanduser() if home else general / "huggingface") / "hub"


def directory(repo: Repo, commit: str) -> Path:
    """The snapshot of a commit."""
    return cache() / repo.slug / "snapshots" / commit


def list_cached(repo: Repo) -> Listing | None:
    """What another tool left in the cache; blobs are named by their hashes."""
    wanted = repo.revision or "main"
    ref = cache() / repo.slug / "refs" / wanted
    commit = (
        wanted if _COMMIT.fullmatch(wanted) else ref.read_text(errors="replace").strip() if ref.is_file() else ""
    )
    where = directory(repo, commit) if _COMMIT.fullmatch(commit) else None
    if where is None or not where.is_dir():
        return None
    return Listing(commit, tuple(_described(file) for file in sorted(where.iterdir()) if file.is_file()))


def _described(file: Path) -> RemoteFile:
    blob = file.resolve()
    size = blob.stat().st_size
    sha256 = blob.name if re.fullmatch(r"[0-9a-f]{64}", blob.name) else None
    return RemoteFile(file.name, size, sha256, blob.name if _COMMIT.fullmatch(blob.name) else None)


@dataclass(frozen=True)
class _Revision:
    sha: str


@dataclass(frozen=True)
class _Tensor:
    """What a header says of a tensor; `__metadata__`, which is none, has its defaults."""

    dtype: str = ""
    shape: list[int] = field(default_factory=list)
    data_offsets: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class _Large:
    oid: str | None = None


@dataclass(frozen=True)
class _Entry:
    """A file or a directory, as the API lists it."""

    type: str
    path: str
    size: int = 0
    oid: str | None = None
    lfs: _Large | None = None

    def described(self) -> RemoteFile:
        return RemoteFile(self.path, self.size, self.lfs.oid if self.lfs else None, self.oid)


def access() -> Access:
    """How the hub is asked: with the user's token, if there is one."""
    quieten()
    from huggingface_hub import constants, get_token

    token = None if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN else get_token()
    identity = {"Authorization": f"Bearer {token}"} if token else {}
    return Access(host(), identity, float(constants.HF_HUB_DOWNLOAD_TIMEOUT))


def list_files(repo: Repo) -> Listing:
    """Ask the hub which commit a revision is, and what it holds."""
    pages, base = Pages(access(), str(repo)), f"{host()}/api/{repo.kind}s/{repo.id}"

    def get(url: str, shape: type[T]) -> tuple[T, str]:
        return failures.patiently(partial(pages.get, url, shape), repo, host(), HINTS)

    commit = get(f"{base}/revision/{quote(repo.revision or 'main', safe='')}", _Revision)[0].sha
    if not _COMMIT.fullmatch(commit):
        raise SourceError(f"{host()} gives no commit for {repo}.", hint="Is HF_ENDPOINT a mirror of the hub?")
    files, url = list[RemoteFile](), f"{base}/tree/{commit}?recursive=true&expand=false"
    while url and len(files) <= MAX_FILES:
        entries, url = get(url, list[_Entry])
        files += [entry.described() for entry in entries if entry.type == "file"]
    return require_sane(repo, Listing(commit, tuple(files)))


def fetch(repo: Repo, listing: Listing, files: Sequence[RemoteFile], reporter: Reporter) -> Path:
    """Bring files into the cache, several at a time; what is there and whole is left alone.

    Raises:
        SourceError: the hub refuses, stalls, or sends something else than it lists.
    """
    contents = by_content(files, partial(_blob, repo))
    for blob in contents:
        blob.parent.mkdir(parents=True, exist_ok=True)
    way = access()
    jobs = [
        partial(_bring, _content(way, repo, listing.commit, f[0]), listing.commit, b) for b, f in contents.items()
    ]

    def size() -> int:
        return sum(size_of(blob) or _size_so_far(blob) for blob in contents)

    title, total = f"Downloading {repo.id} from {host()}", sum(same[0].size for same in contents.values())
    with watching(title, size, total, reporter):
        download_all(jobs)
    where = directory(repo, listing.commit)
    for blob, same in contents.items():
        for file in same:
            _link(blob, where / file.path)
    require_there(repo, where, files)
    _note_revision(repo, listing.commit)
    return where


def read_header(repo: Repo, commit: str, file: RemoteFile) -> dict[str, Any]:
    """What the header of a safetensors file says of its tensors, without the file.

    Raises:
        SourceError: the hub refuses, or the file has no such header.
    """
    first = first_bytes(repo, commit, file, _HEADER_AT_ONCE)
    n_bytes = int.from_bytes(first[:8], "little")
    if len(first) < 8 or n_bytes > min(_LONGEST_HEADER, file.size - 8):
        raise SourceError(f"{file.path} of {repo} has no header of a safetensors file.", hint=_NO_HEADER)
    rest = file.size - 8 - n_bytes
    whole = first if len(first) >= 8 + n_bytes else first_bytes(repo, commit, file, 8 + n_bytes)
    text = whole[8 : 8 + n_bytes]
    said = f"The header of {file.path} of {repo}"
    header = parse_json(text, dict[str, _Tensor], said, SourceError, hint=_NO_HEADER)
    header.pop("__metadata__", None)
    if not all(0 <= tensor.data_offsets[0] <= tensor.data_offsets[1] <= rest for tensor in header.values()):
        raise SourceError(f"{said} tells of bytes that the file does not have.", hint=_NO_HEADER)
    return {name: asdict(tensor) for name, tensor in header.items()}


def first_bytes(repo: Repo, commit: str, file: RemoteFile, n_bytes: int) -> bytes:
    """The beginning of a file. Raises SourceError where the hub refuses."""
    content = _content(access(), repo, commit, file)
    get = partial(content.access.first_bytes, content.url, n_bytes)
    return failures.patiently(get, content.repo, host(), HINTS, content.file.path)


def quieten() -> None:
    """One progress display and one error message: ggufkit's."""
    one_display()
    from huggingface_hub import constants
    from huggingface_hub.utils import disable_progress_bars
    from huggingface_hub.utils.logging import set_verbosity_error

    disable_progress_bars()
    set_verbosity_error()
    constants.HF_HUB_DISABLE_XET = not serves_xet()


def _blob(repo: Repo, file: RemoteFile) -> Path:
    name = file.sha256 or file.git_sha1
    if name is None or not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", name):
        raise SourceError(f"{host()} gives no hash for {file.path} of {repo}.", hint="Use another HF_ENDPOINT.")
    return cache() / repo.slug / "blobs" / name


def _size_so_far(blob: Path) -> int:
    """Of an unfinished blob, under the name that the library gives it or this module."""
    return max((size_of(part) for part in blob.parent.glob(f"{blob.name}*.incomplete")), default=0)


def _content(way: Access, repo: Repo, commit: str, file: RemoteFile) -> Content:
    prefix = "" if repo.kind == "model" else f"{repo.kind}s/"
    url = f"{host()}/{prefix}{repo.id}/resolve/{commit}/{quote(file.path)}"
    return Content(way, HINTS, repo, file, url)


def _bring(content: Content, commit: str, blob: Path, cancel: threading.Event) -> None:
    file = content.file
    if defect(blob, file) is None:
        return
    if file.sha256 is not None and serves_xet():
        _bring_by_xet(content, commit, blob)
    else:
        content.bring(blob, cancel)
    if file.sha256 is not None:
        remember(blob, file.sha256)


def serves_xet() -> bool:
    """A mirror serves files over HTTP only; xet's own servers may be out of reach where a mirror is needed."""
    off = os.environ.get("HF_HUB_DISABLE_XET", "").upper() in ("1", "ON", "YES", "TRUE")
    return host() == DEFAULT_HOST and not off and importlib.util.find_spec("hf_xet") is not None


def _bring_by_xet(content: Content, commit: str, blob: Path) -> None:
    from huggingface_hub import hf_hub_download

    repo, file = content.repo, content.file

    def get() -> None:
        hf_hub_download(repo.id, file.path, repo_type=repo.kind, revision=commit, cache_dir=cache())

    failures.patiently(get, repo, host(), HINTS, file.path)
    content.require_right(blob)


def _link(blob: Path, name: Path) -> None:
    """Give a blob its name in the snapshot: a relative link, or where links are not possible the file itself."""
    name.parent.mkdir(parents=True, exist_ok=True)
    if name.is_file() and name.resolve() == blob.resolve():
        return
    name.unlink(missing_ok=True)
    try:
        name.symlink_to(os.path.relpath(blob, name.parent))
    except OSError:
        shutil.copyfile(blob, name)


def _note_revision(repo: Repo, commit: str) -> None:
    """So that other tools find the snapshot without asking the hub, as they do after a download of their own."""
    if repo.revision is None or not _COMMIT.fullmatch(repo.revision):
        ref = cache() / repo.slug / "refs" / (repo.revision or "main")
        with contextlib.suppress(OSError):
            ref.parent.mkdir(parents=True, exist_ok=True)
            ref.write_text(commit)
