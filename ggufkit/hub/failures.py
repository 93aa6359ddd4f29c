"""What went wrong at a hub or a mirror, in one message; and which failures pass by waiting."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from ggufkit.core.errors import GgufkitError, ResourceError, SourceError
from ggufkit.hub.http import TooSlow
from ggufkit.hub.listing import HubUnreachable, Repo, RepoAbsent

T = TypeVar("T")

_TRANSPORTS = ("httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3")
_TRIES = 4
_LONGEST_WAIT_S = 60.0


@dataclass(frozen=True)
class Hints:
    """The ways out at one hub.

    Args:
        gated: how to be let in; with `{host}` and the repository's `{id}`.
        absent: what to do about a repository that is not there.
        busy: about too many requests.
        unreached: about a hub that does not answer.
        broken: about answers that are errors of its own.
        changed: about content that is not what it lists.
    """

    gated: str
    absent: str
    busy: str
    unreached: str
    broken: str
    changed: str


def patiently(call: Callable[[], T], repo: Repo, host: str, hints: Hints, file: str | None = None) -> T:
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
            wait = None if _is_timeout(error) else advised_wait(error, attempt)
            if attempt == _TRIES or wait is None:
                raise explain(error, repo, host, hints, file) from error
            time.sleep(wait)
    raise AssertionError("unreachable")


def status_of(error: BaseException) -> int | None:
    """The HTTP status that an error tells of, looking at its causes too."""
    return getattr(_response_of(error), "status_code", None)


def _response_of(error: BaseException) -> Any:
    """The answer that an error or one of its causes tells of."""
    answers = (getattr(seen, "response", None) for seen in _causes(error))
    return next((answer for answer in answers if isinstance(getattr(answer, "status_code", None), int)), None)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error, what caused it, what caused that."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__


def is_passing(error: BaseException) -> bool:
    """Whether what failed so is worth another try: the connection broke or hung, or the server is busy."""
    status = status_of(error)
    if status is not None:
        return status in (408, 429) or status >= 500
    if isinstance(error, TooSlow):
        return True
    if isinstance(error, OSError) and error.errno is not None:
        return isinstance(error, (ConnectionError, TimeoutError))
    return _is_transport(error) and not _is_refused(error)


def _is_refused(error: BaseException) -> bool:
    """Whether no connection came about at all: that does not change within seconds."""
    names = {base.__name__ for seen in _causes(error) for base in type(seen).__mro__}
    return bool(names & {"ConnectError", "NewConnectionError", "SSLError"})


def advised_wait(error: BaseException, attempt: int) -> float | None:
    """Seconds to wait before the next try, none after a wait in vain; None where it would not help, or the hub asks for
    more than a minute."""
    if not is_passing(error):
        return None
    if _is_timeout(error):
        return 0.0
    asked = str(getattr(_response_of(error), "headers", {}).get("Retry-After", ""))
    seconds = float(asked) if asked.isdecimal() else float(attempt)
    return seconds if seconds <= _LONGEST_WAIT_S else None


def _is_transport(error: BaseException) -> bool:
    roots = {base.__module__.partition(".")[0] for base in type(error).__mro__}
    return bool(roots & set(_TRANSPORTS)) or isinstance(error, OSError)


def _is_timeout(error: BaseException) -> bool:
    named = any("Timeout" in base.__name__ for base in type(error).__mro__)
    return named or (_is_transport(error) and "timed out" in str(error))


def explain(error: BaseException, repo: Repo, host: str, hints: Hints, file: str | None = None) -> GgufkitError:
    """The error to show for a failure of the hub, its library or the network between."""
    if isinstance(error, GgufkitError):
        return error
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return ResourceError(f"The disk filled up while downloading {repo}.", hint="Free some space and repeat.")
    if _is_offline(error):
        return SourceError(
            f"{repo} is not in the cache, and HF_HUB_OFFLINE is set.", hint="Unset it, or give a directory."
        )
    what = f"{file} of {repo}" if file else str(repo)
    status = status_of(error)
    if status is not None:
        return _refused(_response_of(error), repo, host, hints, file)
    if _is_timeout(error) or isinstance(error, TooSlow):
        reason = str(error) if isinstance(error, TooSlow) else "no answer in time"
        hint = f"Repeat: it goes on from there. {hints.unreached}"
        return HubUnreachable(f"{host} stalled on {what}: {reason}.", hint=hint)
    if _is_transport(error):
        return HubUnreachable(f"{host} cannot be reached for {what}: {_words(error)}.", hint=hints.unreached)
    return SourceError(
        f"{what} could not be read from {host}: {_words(error)}.", hint="Repeat with --debug to see more."
    )


def _is_offline(error: BaseException) -> bool:
    return any(base.__name__ == "OfflineModeIsEnabled" for base in type(error).__mro__)


def _words(error: BaseException) -> str:
    """The first line of the innermost reason: what is around it names objects of the client."""
    reasons = [getattr(seen, "strerror", None) or str(seen).strip() for seen in _causes(error)]
    said = next((reason for reason in reversed(reasons) if reason), type(error).__name__)
    return said.splitlines()[0].rstrip(".")[:200]


def _refused(answer: Any, repo: Repo, host: str, hints: Hints, file: str | None) -> SourceError:
    what = f"{file} of {repo}" if file else str(repo)
    status, code = answer.status_code, answer.headers.get("X-Error-Code", "")
    if code == "RevisionNotFound":
        hint = "Give a branch, tag or commit."
        return SourceError(f"{repo.id} on {host} has no revision {repo.revision!r}.", hint=hint)
    if code == "RepoNotFound" or (status == 404 and file is None) or (status == 401 and not code and file is None):
        message = f"There is no {repo.kind} {repo.id} on {host}, or it is private (HTTP {status})."
        return RepoAbsent(message, hint=hints.absent)
    if code == "GatedRepo" or status in (401, 403):
        message = f"{host} does not let you read {what} (HTTP {status}): it is gated or private."
        return SourceError(message, hint=hints.gated.format(host=host, id=repo.id))
    if status == 404:
        return SourceError(f"{host} lists {what} but does not have it (HTTP 404).", hint=hints.broken)
    if status == 429:
        return SourceError(f"{host} had too many requests (HTTP 429); it refused one for {what}.", hint=hints.busy)
    kind = HubUnreachable if status >= 500 else SourceError
    return kind(f"{host} answered HTTP {status} for {what}.", hint=hints.broken)
