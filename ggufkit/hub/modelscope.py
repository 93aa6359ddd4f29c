"""ModelScope, through `modelscope_hub` (which `modelscope` is built on) and its cache."""

from __future__ import annotations

import glob
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse

from ggufkit.core import extras
from ggufkit.core.errors import GgufkitError, SourceError
from ggufkit.core.progress import Reporter
from ggufkit.hub.downloads import WORKERS, one_display, watching
from ggufkit.hub.listing import HubUnreachable, Listing, RemoteFile, Repo, RepoAbsent, defect

if TYPE_CHECKING:
    from modelscope_hub import HubApi

KEY = "ms"
TITLE = "ModelScope"
DEFAULT_HOST = "https://modelscope.cn"
# The library gives up after so many failures even if each attempt brought something; `fetch` goes on.
_SETTINGS = {"MODELSCOPE_DOWNLOAD_MAX_RETRIES": "2", "MODELSCOPE_DOWNLOAD_TIMEOUT": "20"}
_TRIES = 3


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
    """The library's client.

    Raises:
        MissingExtra: the library is not installed.
    """
    extras.require("modelscope")
    one_display()
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    from modelscope_hub import HubApi, HubConfig

    logging.getLogger("modelscope_hub").setLevel(logging.CRITICAL)
    return HubApi(HubConfig(endpoint=host(), cache_dir=cache()))


def list_files(repo: Repo) -> Listing:
    """Ask the hub what a revision holds.

    The commit is that of the newest file: the hub tells for each file which commit changed it last.
    """
    api = client()
    try:
        entries = api.legacy.list_repo_files(repo.id, repo.kind, revision=repo.revision or "master")
    except Exception as error:
        raise _explain(error, repo) from error
    files = [e for e in entries if (e.get("Type") or "blob") != "tree"]
    if not files:
        # An unknown revision is no error to this hub: it lists nothing.
        hint = "Its default branch is `master`; give a branch or tag that exists."
        raise RepoAbsent(f"{host()} lists no files for {repo}: is there such a revision?", hint=hint)
    newest = max(files, key=lambda e: int(e.get("CommittedDate") or 0))
    return Listing(str(newest.get("Revision") or repo.revision or "master"), tuple(_remote(e) for e in files))


def _remote(entry: dict[str, Any]) -> RemoteFile:
    return RemoteFile(str(entry["Path"]), int(entry.get("Size") or 0), entry.get("Sha256") or None)


def fetch(repo: Repo, listing: Listing, files: Sequence[RemoteFile], reporter: Reporter) -> Path:
    """Bring files into the cache; the library resumes, retries and checks hashes.

    Raises:
        SourceError: the hub refuses, stalls, or sends something else than it lists.
    """
    api, where = client(), directory(repo, listing.commit)
    missing = [file for file in files if defect(where / file.path, file)]
    total, before = sum(file.size for file in missing), _bytes_in(where)
    title = f"Downloading {repo.id} from {host()}"
    with watching(title, lambda: min(total, _bytes_in(where) - before), total, reporter):
        _download(api, repo, missing, where)
    for file in files:
        _require_right(where / file.path, repo, file)
    return where


def _download(api: HubApi, repo: Repo, files: Sequence[RemoteFile], where: Path) -> None:
    """As long as each attempt brings something, go on."""
    names, failures = [glob.escape(file.path) for file in files], 0
    while True:
        there = _bytes_in(where)
        try:
            api.download_repo(
                repo.id, repo.kind, revision=repo.revision, allow_patterns=names, max_workers=WORKERS
            )
            return
        except Exception as error:
            failures = 0 if _bytes_in(where) > there else failures + 1
            explained = _explain(error, repo)
            if failures >= _TRIES or not isinstance(explained, HubUnreachable):
                raise explained from error


def _bytes_in(path: Path) -> int:
    return sum(file.stat().st_size for file in path.glob("*") if file.is_file())


def _require_right(path: Path, repo: Repo, file: RemoteFile) -> None:
    wrong = defect(path, file)
    if wrong is not None:
        path.unlink(missing_ok=True)
        message = f"{file.path} of {repo} from {host()} {wrong}: it was removed."
        raise SourceError(message, hint="A proxy or a mirror changed it. Repeat the command.")


def _explain(error: BaseException, repo: Repo) -> GgufkitError:
    """The error to show; the library wraps what went wrong with single files."""
    failed: dict[str, BaseException] = getattr(error, "failed_files", None) or {}
    file, cause = next(iter(failed.items()), (None, error))
    if isinstance(cause, GgufkitError):
        return cause
    kinds = {base.__name__ for base in type(cause).__mro__}
    for known, make in _KINDS.items():
        if known in kinds:
            explained: SourceError = make(cause, repo, file)
            return explained
    return SourceError(
        f"{_what(repo, file)} could not be read from {host()}: {_words(cause)}", hint="Repeat the command."
    )


def _what(repo: Repo, file: str | None) -> str:
    return f"{file} of {repo}" if file else str(repo)


def _words(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _gated(_error: BaseException, repo: Repo, file: str | None) -> SourceError:
    hint = f"Ask for access at {host()}/models/{repo.id}, then set MODELSCOPE_API_TOKEN, or log in with `modelscope login`."
    return SourceError(f"{host()} does not let you read {_what(repo, file)}: it is gated or private.", hint=hint)


def _absent(_error: BaseException, repo: Repo, file: str | None) -> SourceError:
    if file is not None:
        message = f"{host()} lists {_what(repo, file)} but does not have it (HTTP 404)."
        return SourceError(message, hint="Repeat the command.")
    hint = "Check the spelling; `ggufkit models` lists aliases with both hubs' names."
    return RepoAbsent(f"There is no {repo.kind} {repo.id} on {host()}, or it is private.", hint=hint)


def _changed(error: BaseException, repo: Repo, file: str | None) -> SourceError:
    message = f"{_what(repo, file)} from {host()} is not what the hub lists: {_words(error)}"
    return SourceError(message, hint="A proxy or a mirror changed it. Repeat the command.")


def _busy(_error: BaseException, repo: Repo, file: str | None) -> SourceError:
    return SourceError(
        f"{host()} asks for patience (HTTP 429) on {_what(repo, file)}.", hint="Wait a little and repeat."
    )


def _slow(_error: BaseException, repo: Repo, file: str | None) -> SourceError:
    message = f"{host()} stalled on {_what(repo, file)}: no answer in time."
    return HubUnreachable(message, hint="Repeat the command: it goes on from there.")


def _away(error: BaseException, repo: Repo, file: str | None) -> SourceError:
    status = getattr(error, "status_code", None)
    why = f"it answers HTTP {status}" if status else "the connection failed or broke"
    message = f"{host()} cannot be reached for {_what(repo, file)}: {why}."
    return HubUnreachable(message, hint="Check the network or the proxy, or use --from hf.")


_KINDS: dict[str, Any] = {
    "AuthenticationError": _gated, "PermissionDeniedError": _gated, "NotExistError": _absent,
    "RateLimitError": _busy, "FileIntegrityError": _changed, "RequestTimeoutError": _slow,
    "_DownloadDeadlineError": _slow, "Timeout": _slow, "NetworkError": _away, "ServerError": _away,
    "ConnectionError": _away,
}  # fmt: skip
"""By the name of the library's error, from the particular to the general."""
