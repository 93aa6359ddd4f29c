"""What clients expect of a model that answers. What it says is its own: a model of random weights passes, too."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from ggufkit.modelfile import native
from ggufkit.modelfile.conversation import (
    Conversation,
    Message,
    Parameter,
    Tool,
    ToolCall,
    hf_messages,
    tool_schema,
)
from ggufkit.serving.asking import CLIENTS, GREEDY, QUESTIONS, Asked, Outcome, require, short, stream, text_of

_BROKEN, _LONGEST = "\ufffd", 4
"""What is read of bytes that are no character; the most bytes of one."""
_ROOM = 512
"""Tokens where a model may think before it answers."""
_SCHEMA = {
    "type": "object",
    "properties": {"answer": {"enum": ["yes", "no"]}, "sure": {"type": "boolean"}},
    "required": ["answer", "sure"],
    "additionalProperties": False,
}
_WEATHER = Tool(
    "get_weather",
    "The weather of a city.",
    (Parameter("city", "string", "The city.", ("Paris", "London")),),
    ("city",),
)
_TALKS = (
    Conversation((Message("user", "Hello"),)),
    Conversation((Message("system", "Be brief."), Message("user", "Hello"))),
    Conversation(
        tuple(
            Message(role, said)
            for role, said in (("user", "Hello"), ("assistant", "Hi."), ("user", "Who?\n\nYou?"))
        )
    ),
)
_TOOL_TALKS = (
    Conversation((Message("user", "Is it warm in Paris?"),), (_WEATHER,)),
    Conversation(
        (
            Message("user", "Is it warm in Paris?"),
            Message("assistant", "", (ToolCall("get_weather", {"city": "Paris"}),)),
            Message("tool", "21 degrees"),
        ),
        (_WEATHER,),
    ),
)


def _chat(asked: Asked) -> Outcome:
    begun = time.perf_counter()
    reply = asked.answer(QUESTIONS[0])
    seconds = time.perf_counter() - begun
    choice = reply.choices[0]
    require(choice.finish_reason in ("stop", "length"), f"it ends with {choice.finish_reason!r}")
    require(bool(text_of(choice.message)), "it says nothing")
    tokens = reply.usage.completion_tokens
    return Outcome("chat", True, short(text_of(choice.message)), tokens / seconds)


def _stream(asked: Asked) -> Outcome:
    whole = text_of(asked.answer(QUESTIONS[0]).choices[0].message)
    streamed = stream(asked, QUESTIONS[0], GREEDY)
    require(bool(streamed.text), "it says nothing")
    require(_same(streamed.text, whole), _difference(streamed.text, whole))
    said = f"the same text in {streamed.n_pieces} pieces"
    return Outcome("streaming", True, said, streamed.tokens_per_s, streamed.first_token_s)


def _same(streamed: str, whole: str) -> bool:
    """Whether all was streamed, but for a character that the answer ends within: llama-server holds that back."""
    return streamed == whole or (
        whole.startswith(streamed) and _BROKEN in whole[-_LONGEST:] and len(whole) < len(streamed) + _LONGEST
    )


def _difference(streamed: str, whole: str) -> str:
    at = next((at for at, (one, other) in enumerate(zip(streamed, whole, strict=False)) if one != other), -1)
    at = at if at >= 0 else min(len(streamed), len(whole))
    return f"it streams {streamed[at : at + 40]!r} where it says {whole[at : at + 40]!r} at once"


def _stops(asked: Asked) -> Outcome:
    whole = text_of(asked.answer(QUESTIONS[0]).choices[0].message)
    leaked = [token for token in asked.meta.end_tokens if token in whole]
    require(not leaked, f"it shows {leaked}")
    words = (word for word in whole.split()[1:] if word.isascii() and word.isprintable())
    word = next((word for word in words if whole.find(word) > 0), None)
    if word is None:
        return Outcome("stop tokens", True, "none is shown")
    choice = asked.answer(QUESTIONS[0], stop=[word]).choices[0]
    said = text_of(choice.message)
    require(choice.finish_reason == "stop" and word not in said, f"it goes on after {word!r}: {said[:60]!r}")
    require(whole.startswith(said), f"up to {word!r} it says {said[:60]!r}")
    return Outcome("stop tokens", True, f"none is shown; ends before {short(word)}")


def _schema(asked: Asked) -> Outcome:
    wanted = {"type": "json_schema", "json_schema": {"name": "answer", "schema": _SCHEMA, "strict": True}}
    choice = asked.answer("Is the sky blue?", response_format=wanted, max_tokens=_ROOM).choices[0]
    said = choice.message.content or ""
    try:
        found = json.loads(said)
        valid = set(found) == {"answer", "sure"} and found["answer"] in ("yes", "no")
        valid = valid and isinstance(found["sure"], bool)
    except (ValueError, TypeError):
        valid = False
    require(valid, f"it says {said[:80]!r}")
    return Outcome("JSON schema", True, json.dumps(found))


def _tool(asked: Asked) -> Outcome:
    if not asked.knows_tools:
        return Outcome("tool call", None, "the template knows no tools")
    how = {"tools": [tool_schema(_WEATHER)], "tool_choice": "required", "max_tokens": _ROOM}
    message = asked.answer("Is it warm in Paris?", **how).choices[0].message
    calls = message.tool_calls or []
    require(bool(calls), f"it calls none: {text_of(message)[:80]!r}")
    name, arguments = calls[0].function.name, calls[0].function.arguments
    try:
        city = json.loads(arguments).get("city")
    except (ValueError, AttributeError):
        city = None
    right = name == _WEATHER.name and city in _WEATHER.parameters[0].enum
    require(right, f"it calls {name!r} with {arguments[:80]!r}")
    return Outcome("tool call", True, f"{name}({arguments})")


def _template(asked: Asked) -> Outcome:
    """The prompts are those of the engine that `ggufkit modelfile` proves against the model's own template."""
    if asked.meta.chat_template is None:
        return Outcome("template", None, "the file has none: ChatML is used")
    talks = [*_TALKS, *(_TOOL_TALKS if asked.knows_tools else ())]
    if "enable_thinking" in asked.meta.chat_template:  # where nobody sets it, the server does as it guesses
        talks = [replace(talk, think=True) for talk in talks]
    expected = native.render(native.renderer(asked.tools), asked.meta, talks)
    pairs = [(talk, prompt) for talk, prompt in zip(talks, expected, strict=True) if prompt is not None]
    for talk, prompt in pairs:
        require(
            _prompt(asked, talk) == prompt, f"another prompt than the proven one for {talk.messages[-1].content!r}"
        )
    return Outcome("template", True, f"{len(pairs)} prompts are the proven ones")


def _prompt(asked: Asked, talk: Conversation) -> str:
    body: dict[str, Any] = {"messages": hf_messages(talk)}
    if talk.tools:
        body["tools"] = [tool_schema(tool) for tool in talk.tools]
    if talk.think is not None:
        body["chat_template_kwargs"] = {"enable_thinking": talk.think}
    made = asked.client.post(f"{asked.endpoint.root}/apply-template", cast_to=object, body=body)
    return str(made["prompt"])


def _together(asked: Asked) -> Outcome:
    begun = time.perf_counter()
    with ThreadPoolExecutor(CLIENTS) as pool:
        said = list(pool.map(lambda question: stream(asked, question, {"temperature": 0}), QUESTIONS))
    seconds = time.perf_counter() - begun
    require(any(one.text for one in said), "it says nothing")
    tokens, first = sum(one.n_tokens for one in said), max(one.first_token_s for one in said)
    return Outcome("together", True, f"{CLIENTS} clients at once, all answered", tokens / seconds, first)


ANSWERING: dict[str, Callable[[Asked], Outcome]] = {
    "chat": _chat, "streaming": _stream, "stop tokens": _stops, "JSON schema": _schema, "tool call": _tool,
    "template": _template, "together": _together,
}  # fmt: skip
"""Each check by its name."""
