"""A conversation with a served model: its turns, what of them fits into the context, and answers piece by piece."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ggufkit.core.errors import InputError, ToolError
from ggufkit.serving.endpoint import Endpoint
from ggufkit.serving.settings import Settings

if TYPE_CHECKING:
    import requests

_SHARE = 4
"""A question leaves a fourth of the context to its answer, where there are earlier turns to leave out."""
_PATIENCE_S = 30
"""For what computes nothing; an answer may take as long as it takes."""
_EVENT = b"data: "
Message = dict[str, str]


@dataclass(frozen=True)
class Piece:
    """A part of an answer, or of what a model thinks before it."""

    text: str
    is_thought: bool = False


@dataclass(frozen=True)
class Turn:
    """What was said, and answered."""

    said: str
    answer: str


@dataclass(frozen=True)
class Fitting:
    """The turns that go with a question, how many older ones do not, and the tokens of all that goes."""

    turns: Sequence[Turn]
    n_left_out: int
    n_tokens: int


@dataclass
class Answer:
    """An answer as it comes. `ended` is the server's reason for its end, None while there is none."""

    text: str = ""
    ended: str | None = None
    n_tokens: int | None = None

    def is_cut(self, most: int | None) -> bool:
        """Whether it ended because the context did, where an answer has so many tokens at most."""
        return self.ended == "length" and (most is None or (self.n_tokens or 0) < most)


@dataclass
class Conversation:
    """A conversation with a model at an endpoint; without a chat template every text is continued by itself."""

    endpoint: Endpoint
    settings: Settings
    templated: bool
    turns: list[Turn] = field(default_factory=list)
    n_used: int = 0
    """Tokens of the context that the last turn took, with all before it."""

    def n_ctx(self) -> int:
        """The tokens of context that the server has."""
        return int(self._get("/props")["default_generation_settings"]["n_ctx"])

    def fitting(self, said: str) -> Fitting:
        """The latest turns that fit into the context with a question.

        Raises:
            InputError: the question alone does not fit, or the template refuses the conversation.
        """
        n_ctx, turns = self.n_ctx(), self.turns if self.templated else []
        left = min(n_ctx // _SHARE, self.settings.num_predict or n_ctx)
        for n_left_out in range(len(turns) + 1):
            kept = turns[n_left_out:]
            n_tokens = self._count(kept, said)
            if n_tokens + (left if kept else 1) <= n_ctx:
                return Fitting(kept, n_left_out, n_tokens)
        what = "The message and the system prompt have" if self.settings.system else "The message has"
        hint = "Give the context more tokens: /set num_ctx NUMBER, or --ctx; or say less at once."
        raise InputError(f"{what} {n_tokens} tokens, the context {n_ctx}.", hint=hint)

    def answer(self, said: str, fitting: Fitting, answer: Answer) -> Generator[Piece]:
        """An answer piece by piece. Left early, the server stops too; what was said until then counts as the turn.

        Raises:
            InputError: the template refuses the conversation.
            ToolError: the server ended.
        """
        try:
            for event in self._events(*self._request(fitting.turns, said)):
                for choice in event.get("choices") or ():
                    answer.ended = choice.get("finish_reason") or answer.ended
                    yield from _pieces(choice, answer)
                answer.n_tokens = (event.get("usage") or {}).get("completion_tokens", answer.n_tokens)
        finally:
            if answer.text:
                self.turns = [*fitting.turns, Turn(said, answer.text)]
                self.n_used = fitting.n_tokens + (answer.n_tokens or 0)

    def _messages(self, turns: Sequence[Turn], said: str) -> list[Message]:
        system = [{"role": "system", "content": self.settings.system}] if self.settings.system else []
        before = [
            {"role": role, "content": text}
            for turn in turns
            for role, text in (("user", turn.said), ("assistant", turn.answer))
        ]
        return [*system, *before, {"role": "user", "content": said}]

    def _request(self, turns: Sequence[Turn], said: str) -> tuple[str, dict[str, Any]]:
        """Where an answer is asked for, and with which words."""
        how = {**self.settings.body(), "stream": True, "stream_options": {"include_usage": True}}
        if not self.templated:
            return "/v1/completions", {**how, "prompt": said}
        return "/v1/chat/completions", {**how, "messages": self._messages(turns, said)}

    def _count(self, turns: Sequence[Turn], said: str) -> int:
        """The tokens of a conversation as the template writes it."""
        text = said
        if self.templated:
            text = self._post("/apply-template", {"messages": self._messages(turns, said)})["prompt"]
        return len(self._post("/tokenize", {"content": text, "add_special": True})["tokens"])

    def _events(self, path: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """What the server sends of an answer."""
        with _asking(self.endpoint) as client:
            reply = client.post(f"{self.endpoint.root}{path}", json=body, stream=True, timeout=(_PATIENCE_S, None))
            _require_accepted(reply)
            with reply:
                for line in reply.iter_lines():
                    if line.startswith(_EVENT) and line != _EVENT + b"[DONE]":
                        yield _require_answer(json.loads(line.removeprefix(_EVENT)))

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        with _asking(self.endpoint) as client:
            return _object(client.post(f"{self.endpoint.root}{path}", json=body, timeout=_PATIENCE_S))

    def _get(self, path: str) -> dict[str, Any]:
        with _asking(self.endpoint) as client:
            return _object(client.get(f"{self.endpoint.root}{path}", timeout=_PATIENCE_S))


def _pieces(choice: dict[str, Any], answer: Answer) -> Iterator[Piece]:
    """What a part of the answer's stream says; of the answer itself, that is added to it."""
    delta = choice.get("delta") or {}
    if thought := delta.get("reasoning_content"):
        yield Piece(thought, is_thought=True)
    if text := delta.get("content") or choice.get("text"):
        answer.text += text
        yield Piece(text)


@contextlib.contextmanager
def _asking(endpoint: Endpoint) -> Iterator[requests.Session]:
    """Who asks the server. Raises ToolError where it has ended."""
    import requests

    with endpoint.session() as client:
        try:
            yield client
        except requests.RequestException as error:
            raise ToolError(f"llama-server does not answer any more: {type(error).__name__}.") from error


def _object(reply: requests.Response) -> dict[str, Any]:
    """The JSON of a reply."""
    return dict(_require_accepted(reply).json())


def _require_accepted(reply: requests.Response) -> requests.Response:
    """The reply, where it is none of an error. Raises InputError with the server's reason."""
    if not reply.ok:
        with contextlib.suppress(ValueError):
            _require_answer(reply.json())
        raise ToolError(f"llama-server answers with the status {reply.status_code}.")
    return reply


def _require_answer(event: dict[str, Any]) -> dict[str, Any]:
    """What the server sends, where it is no error. Raises InputError with its reason."""
    if (error := event.get("error")) is not None:
        said = " ".join(str(error.get("message", error) if isinstance(error, dict) else error).split())
        raise InputError(f"The model cannot answer that: {said[:300]}", hint="/clear begins anew.")
    return event
