"""Which failures of a hub pass by waiting."""

from __future__ import annotations

import types
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests
import urllib3
from huggingface_hub.errors import LocalEntryNotFoundError

from ggufkit.core.errors import GgufkitError, ResourceError
from ggufkit.core.progress import SilentReporter
from ggufkit.hub import failures
from ggufkit.hub.failures import Hints
from ggufkit.hub.http import TooSlow
from ggufkit.hub.listing import HubUnreachable, Repo, RepoAbsent
from ggufkit.hub.obtain import Place, Want, obtain

HINTS = Hints("ask at {host}/{id}", "absent", "busy", "unreached", "broken", "changed")


class ConnectError(Exception):
    """As the HTTP libraries call it when no connection comes about."""


class ReadError(Exception):
    """As they call it when one breaks."""


def passes(cause: Exception) -> bool:
    """Of what `hf_hub_download` makes of a failure: an error of its own, of which only the cause tells."""
    error = LocalEntryNotFoundError("cannot find the requested files in the local cache")
    error.__cause__ = cause
    return failures.is_passing(error)


def test_a_hub_that_nobody_reaches_is_not_asked_again() -> None:
    assert not passes(ConnectError("Name or service not known"))


def test_a_connection_that_broke_is_worth_another_try() -> None:
    assert passes(ReadError("connection reset"))


def nowhere() -> Exception:
    """What `requests` raises for a name that nobody knows."""
    try:
        try:
            raise OSError(-2, "Name or service not known")
        except OSError as error:
            raise urllib3.exceptions.NameResolutionError("hub.example", None, error) from error  # type: ignore[arg-type]
    except urllib3.exceptions.NameResolutionError as error:
        outer = requests.exceptions.ConnectionError(error)
        outer.__cause__ = error
        return outer


class Refusal(Exception):
    """As libraries raise it."""

    def __init__(self, status: int, headers: dict[str, str]) -> None:
        super().__init__(f"HTTP {status}")
        self.response = types.SimpleNamespace(status_code=status, headers=headers)


def answered(status: int, **headers: str) -> Exception:
    return Refusal(status, {key.replace("_", "-"): value for key, value in headers.items()})


def told(error: Exception, file: str | None = None) -> GgufkitError:
    return failures.explain(error, Repo("acme/x", "v1"), "https://hub.example", HINTS, file)


def test_what_does_not_change_within_seconds_is_not_tried_again() -> None:
    assert failures.advised_wait(nowhere(), 1) is None
    assert failures.advised_wait(requests.exceptions.SSLError("certificate has expired"), 1) is None
    assert failures.advised_wait(answered(404), 1) is None
    assert failures.advised_wait(OSError(28, "No space left on device"), 1) is None


@pytest.mark.parametrize(
    ("after", "seconds"),
    [
        ("7", 7.0),
        ("60", 60.0),
        ("61", None),
        ("9" * 400, None),
        ("\xb2", 3.0),
        ("-1", 3.0),
        ("", 3.0),
        ("tomorrow", 3.0),
    ],
)
def test_how_long_a_hub_may_ask_to_wait(after: str, seconds: float | None) -> None:
    for status in (408, 429, 500, 503):
        assert failures.advised_wait(answered(status, Retry_After=after), 3) == seconds


@pytest.mark.parametrize(
    ("error", "file", "kind", "words", "hint"),
    [
        (
            nowhere(),
            None,
            HubUnreachable,
            "cannot be reached for acme/x@v1: Name or service not known.",
            "unreached",
        ),
        (
            TooSlow(),
            "w",
            HubUnreachable,
            "stalled on w of acme/x@v1: it sends less than 1,024",
            "goes on from there",
        ),
        (TimeoutError(), "w", HubUnreachable, "no answer in time", "goes on from there"),
        (answered(404), None, RepoAbsent, "There is no model acme/x on", "absent"),
        (answered(401), None, RepoAbsent, "or it is private (HTTP 401)", "absent"),
        (
            answered(401, X_Error_Code="GatedRepo"),
            None,
            GgufkitError,
            "gated",
            "ask at https://hub.example/acme/x",
        ),
        (answered(403), "w", GgufkitError, "does not let you read w", "ask at"),
        (answered(404, X_Error_Code="RevisionNotFound"), None, GgufkitError, "no revision 'v1'", "branch"),
        (answered(404), "w", GgufkitError, "lists w of acme/x@v1 but does not have it", "broken"),
        (answered(429), "w", GgufkitError, "too many requests", "busy"),
        (answered(502), "w", HubUnreachable, "answered HTTP 502", "broken"),
        (OSError(28, "No space left on device"), "w", ResourceError, "disk filled up", "Free"),
        (
            ValueError("odd\nsecond line"),
            "w",
            GgufkitError,
            "could not be read from https://hub.example: odd.",
            "--debug",
        ),
    ],
)
def test_a_failure_is_one_message(
    error: Exception, file: str | None, kind: type[GgufkitError], words: str, hint: str
) -> None:
    made = told(error, file)
    assert isinstance(made, kind)
    assert words in made.message
    assert hint in str(made.hint)
    assert made.exit_code == (6 if kind is ResourceError else 3)


@pytest.mark.parametrize(
    ("asked", "advised"), [(["hf"], True), (["hf", "modelscope"], False), (["modelscope"], False)]
)
def test_another_hub_is_advised_only_where_it_was_not_asked(
    asked: list[str], advised: bool, private_cache: Path
) -> None:
    def fail(_repo: Repo) -> None:
        raise HubUnreachable("It does not answer.", hint="Check the network.")

    def place(key: str) -> Any:
        hub = SimpleNamespace(
            KEY=key, TITLE=key, host=lambda: "https://hub", list_files=fail, list_cached=lambda _repo: None,
            directory=lambda *_: private_cache,
        )  # fmt: skip
        return Place(hub, Repo("a/b"))

    with pytest.raises(HubUnreachable) as failed:
        obtain([place(key) for key in asked], Want(lambda *_: []), SilentReporter())
    hint = failed.value.hint or ""
    assert hint.startswith("Check the network.")
    assert ("--from modelscope" in hint) == advised
