"""Does a served model do what clients expect of it? Asked through the `openai` package, as they ask."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from ggufkit.core import extras
from ggufkit.core.errors import GgufkitError
from ggufkit.core.progress import Reporter
from ggufkit.core.records import Toolchain
from ggufkit.llama.gguf import read_header
from ggufkit.modelfile.metadata import read_meta
from ggufkit.serving import sight
from ggufkit.serving.answers import ANSWERING
from ggufkit.serving.asking import Asked, Failed, Outcome, client_of, require
from ggufkit.serving.endpoint import Endpoint
from ggufkit.serving.vectors import EMBEDDING


def check(
    endpoint: Endpoint, gguf: Path, tools: Toolchain, reporter: Reporter, *, sees: bool = False
) -> list[Outcome]:
    """Ask a served model in all the ways that clients ask.

    Args:
        sees: it reads images.

    Raises:
        MissingExtra: the `openai` package is not installed.
    """
    extras.require("serve")
    wanted = {"models": _models, "key": _key, **(EMBEDDING if endpoint.embeds else ANSWERING)}
    wanted |= {"image": sight.sees} if sees else {}
    with asked(endpoint, gguf, tools) as asking, reporter.step("Checking the endpoint", len(wanted)) as progress:
        outcomes = []
        for done, (name, one) in enumerate(wanted.items()):
            progress.update(done, len(wanted), name)
            outcomes.append(_outcome(name, one, asking))
    return outcomes


@contextlib.contextmanager
def asked(endpoint: Endpoint, gguf: Path, tools: Toolchain) -> Iterator[Asked]:
    """A served model as clients ask it, for the length of a context."""
    with client_of(endpoint) as client:
        yield Asked(client, endpoint, read_meta(read_header(gguf).metadata), tools)


def _outcome(name: str, one: Callable[[Asked], Outcome], asked: Asked) -> Outcome:
    import openai

    try:
        return one(asked)
    except (Failed, openai.OpenAIError, GgufkitError) as error:
        return Outcome(name, False, " ".join(str(error).split())[:200])


def _models(asked: Asked) -> Outcome:
    names = [model.id for model in asked.client.models.list()]
    require(asked.endpoint.model in names, f"the list of models has {names}")
    return Outcome("models", True, f"lists {asked.endpoint.model}")


def _key(asked: Asked) -> Outcome:
    if asked.endpoint.api_key is None:
        return Outcome("key", None, "asks for none")
    import openai

    try:
        asked.client.with_options(api_key="not-it").models.list()
    except openai.AuthenticationError:
        return Outcome("key", True, "refuses a wrong one")
    raise Failed("a wrong key is accepted")
