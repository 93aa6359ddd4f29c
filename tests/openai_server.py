"""A loopback server that speaks OpenAI's protocol as llama-server does: it knows no model, always calls the tool that it
is given, and misbehaves on demand."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from ggufkit.serving.endpoint import Endpoint

NAME = "stand-in"
ANSWER = "A llama is an animal with wool that lives in the Andes."

Json = dict[str, Any]


@contextmanager
def speaking(
    *, faults: tuple[str, ...] = (), api_key: str | None = None, embeds: bool = False,
    render: Callable[[Json], str] = str, tools: bool = True, says: Callable[[Json], str] = lambda _asked: ANSWER,
) -> Iterator[Endpoint]:  # fmt: skip
    """Serve for the length of a context.

    Args:
        faults: what goes wrong: "model", "key", "silent", "stream", "leak", "stop", "schema", "tool", "prompt", "vector",
            "error".
        render: the prompt of a request to /apply-template.
        tools: whether the template knows tools.
        says: the answer to a request.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/health":
                return self._send({"status": "ok"})
            if not self._may():
                return None
            if self.path == "/props":
                return self._send({"chat_template_caps": {"supports_tools": tools}})
            return self._send({"object": "list", "data": [_model("other" if "model" in faults else NAME)]})

        def do_POST(self) -> None:
            asked: Json = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if not self._may():
                return None
            if "error" in faults:
                return self._send({"error": {"message": "no slot is free", "code": 500}}, 500)
            if self.path == "/apply-template":
                return self._send({"prompt": render(asked) + ("!" if "prompt" in faults else "")})
            if self.path.endswith("/embeddings"):
                return self._send(_vectors(asked, "vector" in faults))
            reply = _reply(asked, says(asked), faults)
            return self._stream(reply) if asked.get("stream") else self._send(_completion(reply))

        def _may(self) -> bool:
            shown = self.headers.get("Authorization")
            if api_key is None or shown == f"Bearer {api_key}" or "key" in faults:
                return True
            self._send({"error": {"message": "Invalid API Key", "code": 401}}, 401)
            return False

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
            text = reply["message"]["content"] + ("?" if "stream" in faults else "")
            for piece in text.split():
                self._event(_chunk([{"index": 0, "delta": {"content": f"{piece} "}, "finish_reason": None}]))
            self._event({**_chunk([]), "usage": _usage(len(text.split()))})
            self.wfile.write(b"data: [DONE]\n\n")

        def _event(self, body: Json) -> None:
            self.wfile.write(f"data: {json.dumps(body)}\n\n".encode())

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class calls it so
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield Endpoint("127.0.0.1", server.server_port, NAME, api_key, embeds)
    finally:
        server.shutdown()
        server.server_close()


def _reply(asked: Json, said: str, faults: tuple[str, ...]) -> Json:
    text, reason = f"{said} ", "stop"
    if asked.get("tools"):
        return _called(asked["tools"][0]["function"], "tool" in faults)
    if asked.get("response_format"):
        text = "{" if "schema" in faults else '{"answer": "yes", "sure": true}'
    if "silent" in faults:
        text = ""
    if "leak" in faults:
        text += "<|im_end|> "
    for stop in asked.get("stop") or ():
        text = text if "stop" in faults else text[: text.find(stop)]
    return {"message": {"role": "assistant", "content": text}, "finish_reason": reason}


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


def _model(name: str) -> Json:
    return {"id": name, "object": "model", "created": 1, "owned_by": "nobody"}
