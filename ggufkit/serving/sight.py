"""Does an image change what a model says? Asked with two images that have nothing in common, and one of them again."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ggufkit.core.errors import GgufError, ToolError
from ggufkit.core.records import F16
from ggufkit.llama import server_tool
from ggufkit.llama.server_argv import Beside, Listening
from ggufkit.serving import server
from ggufkit.serving.asking import Asked, Failed, Outcome, require
from ggufkit.serving.endpoint import Endpoint
from ggufkit.serving.room import Cache
from ggufkit.serving.server import Plan, free_port
from ggufkit.steps.load_check import called
from ggufkit.steps.mmproj import Sight
from ggufkit.steps.session import Session

Answer = Callable[[Sequence[Mapping[str, Any]]], Mapping[str, Any]]
"""Answers what is said: a completion of the protocol."""

_HOST, _NAME, _N_CTX, _TIMEOUT_S = "127.0.0.1", "model", 8192, 3600
_FIRST_TOKEN = {"max_tokens": 1, "temperature": 0, "logprobs": True, "top_logprobs": 20}
_ANEW = {"grammar": "root ::= [ -~]+", "cache_prompt": False, "id_slot": 0}
"""A token comes that is whole characters, of which alone log-probabilities are told: what they are a grammar does not
change. And nothing is left of what was asked before."""
_QUESTION = {"type": "text", "text": "What do you see?"}
_SIDE, _STRIPES = 224, 8
_NOISE, _TIMES = 1e-3, 3
"""The least difference that tells two images apart, and how many times that between two answers to one of them."""


def look(answer: Answer) -> Sight:
    """Ask without an image, with one, with the same, and with another.

    Raises:
        Failed: an image takes no tokens, or changes nothing.
    """
    without = answer([_QUESTION])
    first, again, other = (answer([_QUESTION, _part(image)]) for image in (_RED, _RED, _BLUE))
    n_tokens = first["usage"]["prompt_tokens"] - without["usage"]["prompt_tokens"]
    require(n_tokens > 0, "an image takes no tokens")
    difference, noise = _distance(first, other), _distance(first, again)
    same = f"another image changes log-probabilities by {difference:.2g}, the same one by {noise:.2g}"
    require(difference > max(_NOISE, _TIMES * noise), same)
    return Sight(n_tokens, difference)


def sees(asked: Asked) -> Outcome:
    """The check of an endpoint that reads images."""

    def answer(content: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
        said: Any = [{"role": "user", "content": content}]
        how: dict[str, Any] = {**_FIRST_TOKEN, "extra_body": _ANEW}
        completion = asked.client.chat.completions.create(model=asked.endpoint.model, messages=said, **how)
        return dict(completion.model_dump())

    return Outcome("image", True, str(look(answer)))


def prove(model: Path, mmproj: Path, session: Session) -> Sight:
    """Have llama-server read images with a model and what was made for it, on the CPU.

    Raises:
        ToolchainError: there is no llama-server, and none can be built.
        GgufError: an image changes nothing.
        ToolError: the server does not come up with both, or does not answer.
    """
    program = server_tool.find(session.tools, session.reporter)
    endpoint = Endpoint(_HOST, free_port(), _NAME)
    listening = Listening(host=_HOST, port=endpoint.port, name=_NAME, n_ctx=_N_CTX, kv_type=F16, slots=1)
    cache, beside = Cache(_N_CTX, F16, 0), Beside(mmproj)
    wanted = Plan(program, model, endpoint, listening, cache, session.threads, "cpu", beside)
    log = session.workspace.log(f"sight-{called(mmproj).removesuffix('.gguf')}")
    with (
        server.serving(wanted, 0, session, log),
        session.reporter.step(f"Looking at images with {called(mmproj)}"),
    ):
        try:
            return look(lambda content: _ask(endpoint, content))
        except Failed as failed:
            message = f"{called(model)} does not see with {called(mmproj)}: {failed}."
            raise GgufError(message, hint="Are its weights trained, or were they lost?", log=log) from None


def _ask(endpoint: Endpoint, content: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    import requests

    said: Any = {
        "model": endpoint.model,
        "messages": [{"role": "user", "content": content}],
        **_FIRST_TOKEN,
        **_ANEW,
    }
    with endpoint.session() as asking:
        try:
            answered = asking.post(f"{endpoint.base_url}/chat/completions", json=said, timeout=_TIMEOUT_S)
            told = answered.json()
        except (requests.RequestException, ValueError) as error:
            raise ToolError(f"{server_tool.NAME} did not answer about an image: {error}.") from error
    if not isinstance(told, dict) or "choices" not in told:
        raise Failed(f"the server refuses it ({' '.join(answered.text.split())[:200]})")
    return told


def _distance(one: Mapping[str, Any], other: Mapping[str, Any]) -> float:
    """The largest difference of log-probabilities; infinite where the likeliest tokens have none in common."""
    these, those = _likeliest(one), _likeliest(other)
    return max((abs(these[token] - those[token]) for token in these.keys() & those.keys()), default=float("inf"))


def _likeliest(answer: Mapping[str, Any]) -> dict[int | str, float]:
    told = answer["choices"][0].get("logprobs")
    require(bool(told and told["content"]), "it tells no log-probabilities")
    return {top.get("id", top["token"]): float(top["logprob"]) for top in told["content"][0]["top_logprobs"]}


def _part(image: bytes) -> Mapping[str, Any]:
    url = f"data:image/png;base64,{base64.b64encode(image).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


def _png(one: tuple[int, int, int], other: tuple[int, int, int], *, upright: bool) -> bytes:
    """Stripes of two colours, as a PNG (https://www.w3.org/TR/png-3/)."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    width = _SIDE // _STRIPES
    rows = b"".join(
        b"\0" + b"".join(bytes((one, other)[(x if upright else y) // width % 2]) for x in range(_SIDE))
        for y in range(_SIDE)
    )
    header = struct.pack(">IIBBBBB", _SIDE, _SIDE, 8, 2, 0, 0, 0)
    chunks = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


_RED = _png((230, 20, 20), (255, 240, 60), upright=True)
_BLUE = _png((10, 30, 160), (20, 200, 120), upright=False)
