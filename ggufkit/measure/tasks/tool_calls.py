"""Does a served model call the tool that a request is for, with the right arguments, and none where none fits?"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from typing import Any

from ggufkit.core.errors import InputError, ToolError
from ggufkit.measure.tasks.answers import Asking
from ggufkit.serving.endpoint import Endpoint
from ggufkit.texts.tasks import generated

_AT_ONCE, _TOKENS, _TIMEOUT_S = 4, 512, 600


def answers(endpoint: Endpoint, asking: Asking) -> tuple[bool, ...]:
    """For each request whether the calls that the model makes are the right ones.

    Raises:
        InputError: the model's template knows no tools.
        ToolError: the server does not answer.
    """
    import requests

    title, questions = asking.data.title, asking.data.questions
    with endpoint.session() as client, ThreadPoolExecutor(_AT_ONCE) as pool:
        try:
            _require_tools(client.get(f"{endpoint.root}/props", timeout=_TIMEOUT_S).json(), endpoint.model)

            def one(row: Mapping[str, Any]) -> bool:
                reply = client.post(f"{endpoint.base_url}/chat/completions", json=_body(row), timeout=_TIMEOUT_S)
                if reply.status_code != HTTPStatus.INTERNAL_SERVER_ERROR:
                    reply.raise_for_status()
                # Calls that the server cannot make sense of are an error of its own.
                return reply.ok and is_right(reply.json()["choices"][0]["message"].get("tool_calls"), row["calls"])

            with asking.session.reporter.step(f"{title}: {endpoint.model}", len(questions)) as progress:
                found = list[bool]()
                for right in pool.map(one, map(generated.read, questions)):
                    found.append(right)
                    progress.update(len(found), len(questions), "requests")
                return tuple(found)
        except requests.RequestException as error:
            hint = "Repeat the command: what was measured is kept."
            raise ToolError(f"{endpoint.model} does not answer: {error}.", hint=hint) from error


def is_right(made: Sequence[Mapping[str, Any]] | None, wanted: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the calls that were made, as OpenAI's protocol has them, are those that are wanted, in their order.

    Texts are the same whatever their case and the space around them; numbers by their value. An argument that nobody
    wanted makes a call wrong.
    """
    calls = [call["function"] for call in made or ()]
    if len(calls) != len(wanted):
        return False
    return all(
        call["name"] == right["name"] and _plain(_arguments(call["arguments"])) == _plain(right["arguments"])
        for call, right in zip(calls, wanted, strict=True)
    )


def _arguments(written: str) -> Any:
    try:
        return json.loads(written)
    except ValueError:
        return None


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return value.strip().casefold()
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return str(value) if isinstance(value, bool) else value  # a truth value is no number


def _body(row: Mapping[str, Any]) -> dict[str, Any]:
    said = [{"role": "user", "content": row["prompt"]}]
    return {"messages": said, "tools": row["tools"], "temperature": 0, "seed": 1, "max_tokens": _TOKENS}


def _require_tools(props: Mapping[str, Any], model: str) -> None:
    if not props.get("chat_template_caps", {}).get("supports_tools"):
        hint = "Leave tools out of --tasks, or take a model whose template has a place for them."
        raise InputError(f"The chat template of {model} knows no tools.", hint=hint)
