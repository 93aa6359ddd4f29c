"""Hugging Face and its mirrors, through `huggingface_hub` and its cache.

The cache's layout is documented (https://huggingface.co/docs/huggingface_hub/guides/manage-cache): `blobs/<hash>`,
`snapshots/<commit>/<file>` linked to them, `refs/<revision>` with a commit. Blobs are written here by the library's
`http_get`, so that a cut download goes on where it stopped, in the next process too, and a blob gets its name only
when its hash is right. Where the hub serves by xet, the library fetches the blob itself.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import re
import shutil
import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ggufkit.core.errors import Interrupted, SourceError
from ggufkit.core.hashing import remember
from ggufkit.core.progress import Reporter
from ggufkit.hub import hferrors
from ggufkit.hub.downloads import download_all, one_display, watching
from ggufkit.hub.listing import Listing, RemoteFile, Repo, defect

KEY = "hf"
TITLE = "Hugging Face"
DEFAULT_HOST = "https://huggingface.co"
API_TIMEOUT_S = 10.0

_COMMIT = re.compile(r"[0-9a-f]{40}")
_CHUNK = 1 << 20
_TRIES = 4


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
    commit = wanted if _COMMIT.fullmatch(wanted) else ref.read_text().strip() if ref.is_file() else ""
    where = directory(repo, commit) if _COMMIT.fullmatch(commit) else None
    if where is None or not where.is_dir():
        return None
    return Listing(commit, tuple(_described(file) for file in sorted(where.iterdir()) if file.is_file()))


def _described(file: Path) -> RemoteFile:
    blob = file.resolve()
    size = blob.stat().st_size
    sha256 = blob.name if re.fullmatch(r"[0-9a-f]{64}", blob.name) else None
    return RemoteFile(file.name, size, sha256, blob.name if _COMMIT.fullmatch(blob.name) else None)


def list_files(repo: Repo) -> Listing:
    """Ask the hub which commit a revision is, and what it holds."""
    base = f"{host()}/api/{repo.kind}s/{repo.id}"
    info = _get_json(repo, f"{base}/revision/{quote(repo.revision or 'main', safe='')}")[0]
    commit = str(info.get("sha") or "")
    if not _COMMIT.fullmatch(commit):
        raise SourceError(f"{host()} gives no commit for {repo}.", hint="Is HF_ENDPOINT a mirror of the hub?")
    files, url = [], f"{base}/tree/{commit}?recursive=true&expand=false"
    while url:
        entries, url = _get_json(repo, url)
        files += [_remote(entry) for entry in entries if entry.get("type") == "file"]
    return Listing(commit, tuple(files))


def _remote(entry: dict[str, Any]) -> RemoteFile:
    large = entry.get("lfs") or {}
    return RemoteFile(str(entry["path"]), int(entry["size"]), large.get("oid"), entry.get("oid"))


def _get_json(repo: Repo, url: str) -> tuple[Any, str]:
    """The answer of the hub's API, and the address of its next page, if there is one."""
    quieten()
    from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

    def get() -> tuple[Any, str]:
        response = get_session().get(url, headers=build_hf_headers(), timeout=API_TIMEOUT_S)
        hf_raise_for_status(response)
        return response.json(), str(response.links.get("next", {}).get("url", ""))

    return hferrors.patiently(get, repo, host())


def fetch(repo: Repo, listing: Listing, files: Sequence[RemoteFile], reporter: Reporter) -> Path:
    """Bring files into the cache, several at a time; what is there and whole is left alone.

    Raises:
        SourceError: the hub refuses, stalls, or sends something else than it lists.
    """
    quieten()
    blobs = cache() / repo.slug / "blobs"
    blobs.mkdir(parents=True, exist_ok=True)
    jobs = [partial(_bring, repo, listing.commit, file) for file in files]

    def size() -> int:
        return sum(_size(_blob(repo, file)) or _size_so_far(_blob(repo, file)) for file in files)

    title, total = f"Downloading {repo.id} from {host()}", sum(file.size for file in files)
    with watching(title, size, total, reporter):
        download_all(jobs)
    _note_revision(repo, listing.commit)
    return directory(repo, listing.commit)


def read_header(repo: Repo, commit: str, file: RemoteFile) -> dict[str, Any]:
    """What the header of a safetensors file says of its tensors, without the file.

    Raises:
        SourceError: the hub refuses, or the file has no such header.
    """
    quieten()
    from huggingface_hub import HfApi

    def get() -> dict[str, Any]:
        found = HfApi(endpoint=host()).parse_safetensors_file_metadata(repo.id, file.path, revision=commit)
        return {
            n: {"dtype": t.dtype, "shape": t.shape, "data_offsets": t.data_offsets}
            for n, t in found.tensors.items()
        }

    return hferrors.patiently(get, repo, host(), file.path)


def quieten() -> None:
    """One progress display and one error message: ggufkit's. Small pieces, so that a cut loses little."""
    one_display()
    from huggingface_hub import constants
    from huggingface_hub.utils import disable_progress_bars
    from huggingface_hub.utils.logging import set_verbosity_error

    disable_progress_bars()
    set_verbosity_error()
    constants.DOWNLOAD_CHUNK_SIZE = _CHUNK
    constants.HF_HUB_DISABLE_XET = not serves_xet()


def _blob(repo: Repo, file: RemoteFile) -> Path:
    name = file.sha256 or file.git_sha1
    if name is None or not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", name):
        raise SourceError(f"{host()} gives no hash for {file.path} of {repo}.", hint="Use another HF_ENDPOINT.")
    return cache() / repo.slug / "blobs" / name


def _unfinished(blob: Path) -> Path:
    return blob.with_name(blob.name + ".incomplete")


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _size_so_far(blob: Path) -> int:
    """Of an unfinished blob, under the name that the library gives it or this module."""
    return max((_size(part) for part in blob.parent.glob(f"{blob.name}*.incomplete")), default=0)


def _bring(repo: Repo, commit: str, file: RemoteFile, cancel: threading.Event) -> None:
    blob = _blob(repo, file)
    if defect(blob, file):
        if file.sha256 is not None and serves_xet():
            _bring_by_xet(repo, commit, file)
        else:
            _download(repo, commit, file, blob, cancel)
    _link(blob, directory(repo, commit) / file.path)


def serves_xet() -> bool:
    """A mirror serves files over HTTP only; xet's own servers may be out of reach where a mirror is needed."""
    off = os.environ.get("HF_HUB_DISABLE_XET", "").upper() in ("1", "ON", "YES", "TRUE")
    return host() == DEFAULT_HOST and not off and importlib.util.find_spec("hf_xet") is not None


def _bring_by_xet(repo: Repo, commit: str, file: RemoteFile) -> None:
    from huggingface_hub import hf_hub_download

    def get() -> None:
        hf_hub_download(repo.id, file.path, repo_type=repo.kind, revision=commit, cache_dir=cache())

    hferrors.patiently(get, repo, host(), file.path)
    _require_right(_blob(repo, file), repo, file)


def _download(repo: Repo, commit: str, file: RemoteFile, blob: Path, cancel: threading.Event) -> None:
    """Fetch a blob by HTTP, going on from what an earlier attempt left."""
    unfinished, failures = _unfinished(blob), 0
    while (before := _size(unfinished)) != file.size or not unfinished.is_file():
        if before > file.size:
            unfinished.unlink()
            continue
        try:
            _get_rest(repo, commit, file, unfinished, cancel)
        except Exception as error:
            if cancel.is_set():
                raise Interrupted(f"The download of {file.path} was stopped.") from None
            failures = 0 if _size(unfinished) > before else failures + 1
            if failures >= _TRIES or not hferrors.is_passing(error):
                raise hferrors.explain(error, repo, host(), file.path) from error
            cancel.wait(failures)
    _require_right(unfinished, repo, file)
    unfinished.replace(blob)
    if file.sha256 is not None:
        remember(blob, file.sha256)


def _get_rest(repo: Repo, commit: str, file: RemoteFile, unfinished: Path, cancel: threading.Event) -> None:
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    prefix = "" if repo.kind == "model" else f"{repo.kind}s/"
    url = f"{host()}/{prefix}{repo.id}/resolve/{commit}/{quote(file.path)}"
    with io.BufferedWriter(_Stoppable(unfinished, cancel)) as sink:
        http_get(url, sink, resume_size=sink.tell(), headers=build_hf_headers(), expected_size=file.size)


class _Stoppable(io.FileIO):
    """A file to append to, until told to stop."""

    def __init__(self, path: Path, cancel: threading.Event) -> None:
        super().__init__(path, "ab")
        self._cancel = cancel

    def write(self, data: Any) -> int:
        """Append, or raise Interrupted."""
        if self._cancel.is_set():
            raise Interrupted("The download was stopped.")
        return super().write(data)


def _require_right(path: Path, repo: Repo, file: RemoteFile) -> None:
    wrong = defect(path, file)
    if wrong is not None:
        path.unlink(missing_ok=True)
        raise SourceError(
            f"{file.path} of {repo.id} from {host()} {wrong}: it was removed.",
            hint="A proxy or a mirror changed it. Repeat the command, or set another HF_ENDPOINT.",
        )


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
