"""The questions that a chat template is asked: conversations with recognizable contents, which make it show its rules."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import product

from ggufkit.modelfile.conversation import Conversation, Message, Parameter, Tool, ToolCall


@dataclass(frozen=True)
class Domain:
    """Which conversations are to be covered, beyond system? (user assistant)* user.

    `blank` stands for contents of nothing but white space, `wide_spaces` for white space beyond ASCII.
    """

    system: bool = True
    tools: bool = False
    thinking: bool = False
    later_system: bool = False
    assistant_first: bool = False
    blank: bool = False
    wide_spaces: bool = True

    def describe(self) -> str:
        """The domain in words, for a comment in a Modelfile."""
        extras = {
            "with and without a system message": self.system,
            "system messages later on": self.later_system,
            "an assistant message first": self.assistant_first,
            "tools, tool calls and results": self.tools,
            "thinking on, off and unset": self.thinking,
            "contents of white space alone": self.blank,
        }
        return ", ".join(["multi-turn chats", *(text for text, covered in extras.items() if covered)])


QUESTION_TOOLS = (
    Tool(
        "toolXqA",
        "Describes XqA.",
        (Parameter("alpha", "string", "First XqA."), Parameter("beta", "integer")),
        required=("alpha",),
    ),
    Tool("toolXqB", "Describes XqB.", (Parameter("gamma", "string", "Second XqB.", ("one", "two")),)),
)

# s system, u user, a assistant, c assistant with one tool call, d with two, C with a content and a call, t tool.
_CORE = ("u", "uau", "uauau", "uauauau")
_LATER_SYSTEM = ("usu", "uasu", "suasu", "uausu", "usau", "suausu", "suasuasu")
_ASSISTANT_FIRST = ("au", "auau", "sau", "sauau")
_CALLS = (
    "uct",
    "uctau",
    "uauct",
    "uctct",
    "uauctauct",
    "udtt",
    "udttau",
    "uCt",
    "uauCtau",
    "uctctau",
    "uctCt",
    "uctauau",
)


def questions(domain: Domain) -> Iterator[Conversation]:
    """Every conversation to learn from; contents are `marker`s."""
    shapes = list(_CORE)
    if domain.system:
        shapes += ["s" + shape for shape in _CORE]
    if domain.later_system:
        shapes += _LATER_SYSTEM
    if domain.assistant_first:
        shapes += [s for s in _ASSISTANT_FIRST if domain.system or not s.startswith("s")]
    calls = [*_CALLS, *("s" + shape for shape in _CALLS if domain.system)] if domain.tools else []
    thinks = (None, True, False) if domain.thinking else (None,)
    tools = ((), QUESTION_TOOLS) if domain.tools else ((),)
    for shape, given, think in product(shapes + calls, tools, thinks):
        yield Conversation(tuple(_messages(shape)), given, think)


def all_questions(domain: Domain) -> list[Conversation]:
    """The questions of a domain, with contents and with one of them empty."""
    asked = list(questions(domain))
    return [*asked, *emptied(asked)]


def skeleton(conversation: Conversation) -> Conversation:
    """The question of the same shape as a conversation: its roles, calls and options, with recognizable contents."""
    messages = []
    for i, message in enumerate(conversation.messages):
        calls = tuple(_call(i, n) for n in range(len(message.tool_calls)))
        content = marker(i) if message.content or not calls else ""
        messages.append(Message(message.role, content, calls))
    return Conversation(tuple(messages), QUESTION_TOOLS if conversation.tools else (), conversation.think)


def emptied(conversations: Iterable[Conversation]) -> Iterator[Conversation]:
    """The shorter questions with one content emptied at a time."""
    for conversation in conversations:
        if len(conversation.messages) <= 5:
            for i, message in enumerate(conversation.messages):
                if message.content:
                    yield conversation.with_content(i, "")


def prefixes(conversations: Iterable[Conversation]) -> Iterator[Conversation]:
    """Everything that a question begins with, each once."""
    cut = [replace(c, messages=c.messages[:n]) for c in conversations for n in range(1, len(c.messages) + 1)]
    yield from {repr(c): c for c in cut}.values()


def marker(index: int) -> str:
    """The content of the message at an index: letters and digits, which no template changes."""
    return f"Xq{index}qX"


def _messages(shape: str) -> Iterator[Message]:
    roles = {"s": "system", "u": "user", "a": "assistant", "t": "tool", "c": "assistant", "d": "assistant"}
    for i, kind in enumerate(shape):
        calls = tuple(_call(i, n) for n in range({"c": 1, "C": 1, "d": 2}.get(kind, 0)))
        content = "" if kind in "cd" else marker(i)
        yield Message(roles.get(kind, "assistant"), content, calls)


def _call(index: int, number: int) -> ToolCall:
    return ToolCall(f"callXq{index}x{number}", {"count": number + 1, "text": f"valueXq{index}x{number}"})
