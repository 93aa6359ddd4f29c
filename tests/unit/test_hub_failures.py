"""Which failures of a hub pass by waiting."""

from __future__ import annotations

from huggingface_hub.errors import LocalEntryNotFoundError

from ggufkit.hub import failures


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
