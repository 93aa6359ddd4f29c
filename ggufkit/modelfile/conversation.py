"""Conversations as Ollama's API takes them, and the same ones as Hugging Face templates take them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

Json = Any
"""A decoded JSON value. `Any`, as templates take every kind."""


@dataclass(frozen=True)
class Parameter:
    """One parameter of a tool, as JSON schema spells it."""

    name: str
    type: str
    description: str = ""
    enum: tuple[str, ...] = ()


@dataclass(frozen=True)
class Tool:
    """A function that the model may call."""

    name: str
    description: str
    parameters: tuple[Parameter, ...] = ()
    required: tuple[str, ...] = ()


@dataclass(frozen=True)
class ToolCall:
    """A call that the model made. Ollama hands the arguments over as a map, which Go sorts by name."""

    name: str
    arguments: Mapping[str, Json]


@dataclass(frozen=True)
class Message:
    """One message; `role` is system, user, assistant or tool."""

    role: str
    content: str
    tool_calls: tuple[ToolCall, ...] = ()


@dataclass(frozen=True)
class Conversation:
    """What one chat request holds. `think` is Ollama's option of that name; None when it is not set."""

    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()
    think: bool | None = None

    @property
    def has_system(self) -> bool:
        """Whether the conversation opens with a system message."""
        return bool(self.messages) and self.messages[0].role == "system"

    def with_content(self, index: int, content: str) -> Conversation:
        """The same conversation with one message's content replaced."""
        messages = list(self.messages)
        messages[index] = replace(messages[index], content=content)
        return replace(self, messages=tuple(messages))


def collate(conversation: Conversation) -> Conversation:
    """Merge neighbours of the same role, as Ollama does before it renders; tool results stay apart.

    Source: ollama, `template/template.go`, collate.
    """
    merged: list[Message] = []
    for message in conversation.messages:
        if merged and merged[-1].role == message.role != "tool":
            merged[-1] = replace(merged[-1], content=f"{merged[-1].content}\n\n{message.content}")
        else:
            merged.append(message)
    return replace(conversation, messages=tuple(merged))


def tool_schema(tool: Tool) -> dict[str, Json]:
    """A tool as the JSON schema that Hugging Face templates expect, keys in transformers' order.

    Parameters are sorted by name, as Ollama hands them over.
    """
    properties = {p.name: _property(p) for p in sorted(tool.parameters, key=lambda p: p.name)}
    parameters: dict[str, Json] = {"type": "object", "properties": properties}
    if tool.required:
        parameters["required"] = list(tool.required)
    function = {"name": tool.name, "description": tool.description, "parameters": parameters}
    return {"type": "function", "function": function}


def _property(parameter: Parameter) -> dict[str, Json]:
    schema: dict[str, Json] = {"type": parameter.type}
    if parameter.description:
        schema["description"] = parameter.description
    if parameter.enum:
        schema["enum"] = list(parameter.enum)
    return schema


def hf_messages(conversation: Conversation) -> list[dict[str, Json]]:
    """The messages as transformers' `apply_chat_template` takes them.

    Call ids have nine characters, the only length that Mistral's templates accept, and differ from call to call,
    so that a template which prints them cannot pass for one which does not.
    """
    messages: list[dict[str, Json]] = []
    ids: list[tuple[str, str]] = []
    count = 0
    for message in conversation.messages:
        entry: dict[str, Json] = {"role": message.role, "content": message.content}
        if message.tool_calls:
            ids = [(f"call{count + n:05d}", call.name) for n, call in enumerate(message.tool_calls)]
            count += len(ids)
            entry["tool_calls"] = [
                {"id": i, "type": "function", "function": {"name": c.name, "arguments": sort_keys(c.arguments)}}
                for (i, _), c in zip(ids, message.tool_calls, strict=True)
            ]
        if message.role == "tool" and ids:
            (entry["tool_call_id"], entry["name"]), ids = ids[0], ids[1:]
        messages.append(entry)
    return messages


def sort_keys(value: Json) -> Json:
    """A JSON value with every object's keys in Go's order, that of their UTF-8 bytes."""
    if isinstance(value, Mapping):
        return {k: sort_keys(value[k]) for k in sorted(value, key=lambda k: str(k).encode())}
    if isinstance(value, (list, tuple)):
        return [sort_keys(v) for v in value]
    return value
