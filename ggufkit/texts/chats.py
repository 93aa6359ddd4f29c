"""Conversations in JSON or JSONL: an entry each, an object whose `messages` are what `apply_chat_template` takes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ggufkit.core.errors import CorpusError
from ggufkit.texts.row_files import is_structured, read_entries

FIELD = "messages"
_HINT = 'Write one conversation a line: {"messages": [{"role": "user", "content": "…"}, …]}.'


@dataclass(frozen=True)
class Chat:
    """A conversation: its messages, and the tools that it may call, None for none."""

    messages: list[dict[str, Any]]
    tools: list[Any] | None = None


def holds_chats(file: Path, field: str | None = None) -> bool:
    """Whether a file holds conversations, by its first entry.

    Args:
        field: the one that was asked for; by default a field of text comes first.

    Raises:
        CorpusError: it cannot be read.
    """
    if field not in (None, FIELD) or not is_structured(file):
        return False
    first = next(iter(read_entries(file)), None)
    if not isinstance(first, dict) or not isinstance(first.get(FIELD), list):
        return False
    return field == FIELD or not isinstance(first.get("text"), str)


def read_chats(file: Path) -> list[Chat]:
    """All conversations of a file.

    Raises:
        CorpusError: an entry is none; it is named.
    """
    return [_chat(entry, f"Entry {number} of {file}") for number, entry in enumerate(read_entries(file), 1)]


def _chat(entry: Any, what: str) -> Chat:
    messages = entry.get(FIELD) if isinstance(entry, dict) else None
    if not isinstance(messages, list) or not messages:
        raise CorpusError(f"{what} is no conversation: it has no {FIELD}.", hint=_HINT)
    for number, message in enumerate(messages, 1):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise CorpusError(f"{what} is no conversation: message {number} has no role.", hint=_HINT)
    tools = entry.get("tools")
    return Chat(messages, tools if isinstance(tools, list) and tools else None)
