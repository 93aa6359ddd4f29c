"""What went wrong at Hugging Face or a mirror, in one message; and which failures pass by waiting."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from ggufkit.core.errors import GgufkitError, ResourceError, SourceError
from ggufkit.hub.listing import HubUnreachable, Repo, RepoAbsent

T = TypeVar("T")

_TRANSPORTS = ("httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3")
_TRIES = 4
_LONGEST_WAIT_S = 60.0
_MIRROR = (
    "Check the network or the proxy, or use a mirror: HF_ENDPOINT=https://hf-mirror.com, or --from modelscope."
)


def patiently(call: Callable[[], T], repo: Repo, host: str, file: str | None = None) -> T:
    """Call; wait and try again where that may help.

    Raises:
        SourceError: it did not help, or could not.
    """
    for attempt in range(1, _TRIES + 1):
        try:
            return call()
        except GgufkitError:
            raise
        except Exception as error:
            wait = _advised_wait(error, attempt)
            if attempt == _TRIES or wait is None:
                raise explain(error, repo, host, file) from error
            time.sleep(wait)
    raise AssertionError("unreachable")


def status_of(error: BaseException) -> int | None:
    """The HTTP status that an error tells of, looking at its causes too."""
    codes = (getattr(getattr(seen, "response", None), "status_code", None) for seen in _causes(error))
    return next((code for code in codes if isinstance(code, int)), None)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error, what caused it, what caused that."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__


def is_passing(error: BaseException) -> bool:
    """Whether a download that failed so is worth going on with: the connection broke, or the server is busy."""
    status = status_of(error)
    if status is not None:
        return status in (408, 429) or status >= 500
    if isinstance(error, OSError) and error.errno is not None:
        return isinstance(error, (ConnectionError, TimeoutError))
    return _is_transport(error) and not _is_timeout(error) and not _is_refused(error)


def _is_refused(error: BaseException) -> bool:
    """Whether no connection came about at all: the library has tried several times by then."""
    return any(
        "ConnectError" in {base.__name__ for base in type(seen).__mro__} or "NewConnectionError" in str(seen)
        for seen in _causes(error)
    )


def _advised_wait(error: BaseException, attempt: int) -> float | None:
    """Seconds to wait before the next try of a question to the API; None where it would not help."""
    status = status_of(error)
    if status == 429 or (status is not None and status >= 500):
        asked = getattr(error, "response", None)
        value = str(getattr(asked, "headers", {}).get("Retry-After", ""))
        seconds = float(value) if value.isdigit() else float(attempt)
        return seconds if seconds <= _LONGEST_WAIT_S else None
    return float(attempt) if status is None and is_passing(error) else None


def _is_transport(error: BaseException) -> bool:
    roots = {base.__module__.partition(".")[0] for base in type(error).__mro__}
    return bool(roots & set(_TRANSPORTS)) or isinstance(error, OSError)


def _is_timeout(error: BaseException) -> bool:
    named = any("Timeout" in base.__name__ for base in type(error).__mro__)
    return named or (_is_transport(error) and "timed out" in str(error))


def explain(error: BaseException, repo: Repo, host: str, file: str | None = None) -> GgufkitError:
    """The error to show for a failure of the hub, its library or the network between."""
    if isinstance(error, GgufkitError):
        return error
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return ResourceError(f"The disk filled up while downloading {repo}.", hint="Free some space and repeat.")
    if _is_offline(error):
        return SourceError(
            f"{repo} is not in the cache, and HF_HUB_OFFLINE is set.", hint="Unset it, or give a directory."
        )
    status = status_of(error)
    if status is not None:
        return _refused(error, status, repo, host, file)
    what = f"{file} of {repo}" if file else str(repo)
    if _is_timeout(error):
        hint = f"Repeat: it goes on from there. {_MIRROR}"
        return HubUnreachable(f"{host} stalled on {what}: no answer in time.", hint=hint)
    if _is_transport(error):
        return HubUnreachable(f"{host} cannot be reached for {what}: {_words(error)}.", hint=_MIRROR)
    return SourceError(
        f"{what} could not be read from {host}: {_words(error)}", hint="Repeat with --debug to see more."
    )


def _is_offline(error: BaseException) -> bool:
    return any(base.__name__ == "OfflineModeIsEnabled" for base in type(error).__mro__)


def _words(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def _refused(error: Any, status: int, repo: Repo, host: str, file: str | None) -> SourceError:
    what = f"{file} of {repo}" if file else str(repo)
    name = type(error).__name__
    if name == "GatedRepoError" or (status in (401, 403) and name != "RepositoryNotFoundError"):
        hint = f"Ask for access at {host}/{repo.id}, then log in with `hf auth login`, or set HF_TOKEN."
        return SourceError(
            f"{host} does not let you read {what} (HTTP {status}): it is gated or private.", hint=hint
        )
    if name == "RevisionNotFoundError":
        return SourceError(
            f"{repo.id} on {host} has no revision {repo.revision!r}.", hint="Give a branch, tag or commit."
        )
    if name == "RepositoryNotFoundError" or (status == 404 and file is None):
        hint = (
            "Check the spelling (`ggufkit models` lists aliases); there is no such directory here either. "
            "For a private one: `hf auth login`, or HF_TOKEN."
        )
        message = f"There is no {repo.kind} {repo.id} on {host}, or it is private (HTTP {status})."
        return RepoAbsent(message, hint=hint)
    if status == 404:
        return SourceError(
            f"{host} lists {what} but does not have it (HTTP 404).", hint="Repeat, or use another HF_ENDPOINT."
        )
    if status == 429:
        hint = "Wait a little; logging in (`hf auth login`) raises the limit."
        return SourceError(f"{host} asks for patience (HTTP 429) on {what}.", hint=hint)
    kind = HubUnreachable if status >= 500 else SourceError
    return kind(f"{host} answered HTTP {status} for {what}.", hint="Repeat later, or use another HF_ENDPOINT.")
