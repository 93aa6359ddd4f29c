"""A loopback server that speaks OpenAI's protocol as llama-server does: it knows no model, always calls the tool that it
is given, and misbehaves on demand."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from ggufkit.serving.endpoint import Endpoint

NAME = "stand-in"
ANSWER = "A llama is an animal with wool that lives in the Andes."

Json = dict[str, Any]


@dataclass(frozen=True)
class StandIn:
    """How it answers.

    Args:
        faults: what goes wrong: "model", "key", "silent", "stream", "leak", "stop", "schema", "tool", "vector", "error",
            "busy".
        tools: whether the template knows tools.
        says: the answer to a request.
        beside: what else an answer says.
        likely: of its tokens, how likely they were, and another one: logarithms of probabilities.
    """

    faults: tuple[str, ...] = ()
    api_key: str | None = None
    tools: bool = True
    says: Callable[[Json], str] = lambda _asked: ANSWER
    beside: Mapping[str, Any] = field(default_factory=dict)
    likely: Sequence[tuple[str, float, float]] = ()


class _Handler(BaseHTTPRequestHandler):
    how: StandIn

    def do_GET(self) -> None:
        if self.path == "/health":
            self._send({"status": "ok"})
        elif not self._may():
            self._send({"error": {"message": "Invalid API Key", "code": 401}}, 401)
        elif self.path == "/props":
            self._send({"chat_template_caps": {"supports_tools": self.how.tools}})
        else:
            name = "other" if "model" in self.how.faults else NAME
            model = {"id": name, "object": "model", "created": 1, "owned_by": "nobody"}
            self._send({"object": "list", "data": [model]})

    def do_POST(self) -> None:
        asked: Json = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self._may():
            self._send({"error": {"message": "Invalid API Key", "code": 401}}, 401)
        elif "error" in self.how.faults:
            self._send({"error": {"message": "no slot is free", "code": 500}}, 500)
        elif "busy" in self.how.faults:
            self._send({"error": {"message": "Loading model", "code": 503}}, 503)
        elif self.path.endswith("/embeddings"):
            self._send(_vectors(asked, "vector" in self.how.faults))
        elif asked.get("stream"):
            self._stream(_reply(asked, self.how.says(asked), self.how.faults))
        else:
            reply = _reply(asked, self.how.says(asked), self.how.faults)
            if asked.get("logprobs"):
                reply["logprobs"] = {"content": [_likely(*one) for one in self.how.likely]}
            self._send({**_completion(reply), **self.how.beside})

    def _may(self) -> bool:
        shown = self.headers.get("Authorization")
        return self.how.api_key is None or shown == f"Bearer {self.how.api_key}" or "key" in self.how.faults

    def _send(self, body: Json, status: int = 200) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _stream(self, reply: Json) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        text = reply["message"]["content"] + ("?" if "stream" in self.how.faults else "")
        for piece in text.split():
            self._event(_chunk([{"index": 0, "delta": {"content": f"{piece} "}, "finish_reason": None}]))
        self._event({**_chunk([]), "usage": _usage(1 + len(text.split()))})
        self.wfile.write(b"data: [DONE]\n\n")

    def _event(self, body: Json) -> None:
        self.wfile.write(f"data: {json.dumps(body)}\n\n".encode())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class calls it so
        pass


@contextmanager
def speaking(how: StandIn = StandIn(), *, embeds: bool = False) -> Iterator[Endpoint]:
    """Serve for the length of a context."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"how": how}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield Endpoint("127.0.0.1", server.server_port, NAME, how.api_key, embeds)
    finally:
        server.shutdown()
        server.server_close()


def _reply(asked: Json, said: str, faults: tuple[str, ...]) -> Json:
    text = f"{said} "
    if asked.get("tools"):
        return _called(asked["tools"][0]["function"], "tool" in faults)
    if asked.get("response_format"):
        text = "{" if "schema" in faults else '{"answer": "yes", "sure": true}'
    if "silent" in faults:
        text = ""
    if "leak" in faults:
        text += "<|im_end|> "
    for stop in asked.get("stop") or ():
        text = text if "stop" in faults else text.partition(stop)[0]
    return {"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}


def _likely(token: str, own: float, other: float) -> Json:
    both = [{"token": word, "logprob": value, "bytes": None} for word, value in ((token, own), ("?", other))]
    return {**both[0], "top_logprobs": both}


def _called(tool: Json, wrongly: bool) -> Json:
    arguments = {name: (kind.get("enum") or ["x"])[0] for name, kind in tool["parameters"]["properties"].items()}
    function = {"name": tool["name"], "arguments": "{" if wrongly else json.dumps(arguments)}
    call = {"id": "call00000", "type": "function", "function": function}
    return {"message": {"role": "assistant", "content": None, "tool_calls": [call]}, "finish_reason": "tool_calls"}


def _vectors(asked: Json, wrongly: bool) -> Json:
    texts = [asked["input"]] if isinstance(asked["input"], str) else asked["input"]
    vectors = [[float(i) if wrongly else 1.0, float(len(text)), 2.0] for i, text in enumerate(texts)]
    data = [{"object": "embedding", "index": i, "embedding": vector} for i, vector in enumerate(vectors)]
    return {"object": "list", "model": NAME, "data": data, "usage": {"prompt_tokens": 9, "total_tokens": 9}}


def _completion(reply: Json) -> Json:
    choice = {"index": 0, **reply}
    usage = _usage(len((reply["message"]["content"] or "x").split()))
    return {
        "id": "1",
        "object": "chat.completion",
        "created": 1,
        "model": NAME,
        "choices": [choice],
        "usage": usage,
    }


def _chunk(choices: list[Json]) -> Json:
    return {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": NAME, "choices": choices}


def _usage(tokens: int) -> Mapping[str, int]:
    return {"prompt_tokens": 5, "completion_tokens": tokens, "total_tokens": 5 + tokens}
