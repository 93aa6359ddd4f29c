"""How a served model is asked: through the `openai` package, as clients ask."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ggufkit.core.records import Toolchain
from ggufkit.modelfile.metadata import ChatMeta
from ggufkit.serving.endpoint import Endpoint

CLIENTS = 4
"""That ask at once."""
QUESTIONS = (
    "What is a llama?",
    "Name three colours of the rainbow.",
    "Why is the sky blue?",
    "How do you boil an egg?",
)
GREEDY: dict[str, Any] = {"temperature": 0, "seed": 1, "extra_body": {"cache_prompt": False, "id_slot": 0}}
"""The same answer each time: computed anew, and where the last one was."""
_TOKENS = 48
"""Of an answer."""
_TIMEOUT_S = 600


@dataclass(frozen=True)
class Outcome:
    """What came of one check; `passed` is None where it does not apply, and `said` tells why, or what was found.

    `tokens_per_s` and `first_token_s` are as a client sees them, with the way to the server and back; beside a draft the
    rate is the server's own. Of tokens that were `drafted` so many were `accepted`.
    """

    name: str
    passed: bool | None
    said: str
    tokens_per_s: float | None = None
    first_token_s: float | None = None
    drafted: int | None = None
    accepted: int | None = None


class Failed(Exception):
    """A check that did not pass, and why."""


@dataclass(frozen=True)
class Asked:
    """A served model, and what is known of its file."""

    client: Any
    endpoint: Endpoint
    meta: ChatMeta
    tools: Toolchain

    def answer(self, question: str, **how: Any) -> Any:
        """One answer, whole: a choice of the protocol."""
        said = [{"role": "user", "content": question}]
        how = {"max_tokens": _TOKENS, **GREEDY, **how}
        return self.client.chat.completions.create(model=self.endpoint.model, messages=said, **how)

    def get(self, path: str) -> Any:
        """What the server says of itself at a path of its own."""
        return self.client.get(f"{self.endpoint.root}{path}", cast_to=object)

    @property
    def knows_tools(self) -> bool:
        """Whether the template has a place for tools, as llama.cpp finds it."""
        return bool(self.get("/props").get("chat_template_caps", {}).get("supports_tools"))


def client_of(endpoint: Endpoint) -> Any:
    """A client of the `openai` package, which asks without a proxy and once."""
    from openai import DefaultHttpxClient, OpenAI

    direct = DefaultHttpxClient(trust_env=False)
    key = endpoint.api_key or "none"
    return OpenAI(base_url=endpoint.base_url, api_key=key, max_retries=0, timeout=_TIMEOUT_S, http_client=direct)


def text_of(message: Any) -> str:
    """All that a message says, with what a model thought before."""
    return (getattr(message, "reasoning_content", None) or "") + (message.content or "")


@dataclass(frozen=True)
class Streamed:
    """An answer that came in pieces, and when: the first after `first_token_s`, the others at `tokens_per_s`.

    It has no pieces where the model ends its turn at once.
    """

    text: str
    n_pieces: int
    n_tokens: int
    first_token_s: float
    tokens_per_s: float | None


def stream(asked: Asked, question: str, how: dict[str, Any]) -> Streamed:
    """An answer to a question, piece by piece. Raises Failed where none is generated."""
    said = [{"role": "user", "content": question}]
    begun, arrived, pieces, tokens = time.perf_counter(), list[float](), list[str](), 0
    chunks: Iterator[Any] = asked.client.chat.completions.create(
        model=asked.endpoint.model, messages=said, max_tokens=_TOKENS, stream=True,
        stream_options={"include_usage": True}, **how,
    )  # fmt: skip
    for chunk in chunks:
        tokens = chunk.usage.completion_tokens if chunk.usage else tokens
        if chunk.choices and (piece := text_of(chunk.choices[0].delta)):
            pieces.append(piece)
            arrived.append(time.perf_counter())
    require(tokens > 0, "it says nothing")
    arrived = arrived or [time.perf_counter()]
    elapsed = arrived[-1] - arrived[0]
    rate = (tokens - 1) / elapsed if tokens > 1 and elapsed > 0 else None
    return Streamed("".join(pieces), len(pieces), tokens, arrived[0] - begun, rate)


def require(holds: bool, otherwise: str) -> None:
    """Raise Failed with the reason where something does not hold."""
    if not holds:
        raise Failed(otherwise)


def short(text: str) -> str:
    """The beginning of what was said, in one line."""
    line = " ".join(text.split())
    return repr(line if len(line) <= 40 else line[:39] + "…")
