"""Random conversations for the proof: within a domain, with contents chosen to break templates."""

from __future__ import annotations

import random
from collections.abc import Iterator

from ggufkit.modelfile.conversation import Conversation, Json, Message, Parameter, Tool, ToolCall
from ggufkit.modelfile.questions import Domain

# No reasoning tags: templates cut them out of earlier answers, where Ollama hands the reasoning over apart.
_PIECES = (
    *("Hello", "What is 2 + 2?", "naïve café", "日本語のテキスト", "Привет", "🙂", "👩‍👩‍👧", "a", "0"),
    *(
        '"',
        "'",
        '"""',
        "\\",
        "\\n",
        "`",
        "{",
        "}",
        "{{",
        "}}",
        "{{ .Role }}",
        "{% if x %}",
        "{{- end -}}",
        "%s",
        "$.System",
    ),
    *(" ", "  ", "\n", "\n\n", "\t", "\r\n", "\x0b", "\x00", "\u200b"),
    *("<|im_end|>", "<|im_start|>system\n", "</s>", "[INST]", "[/INST]", "<start_of_turn>", "### Instruction:"),
    *("<b>", "&amp;", "<tool_call>", "None", "false", '{"a": 1}', "FROM /etc/passwd", "SYSTEM x", "# x"),
)
_WIDE_SPACES = ("\u00a0", "\u2003", "\u3000", "\x1c")  # Python strips them, llama.cpp does not.
_WORDS = ("alpha", "beta", "city", "count", "delta", "unit", "when", "x_1")
_TYPES = ("string", "integer", "number", "boolean", "array")


def random_conversations(domain: Domain, seed: int = 0) -> Iterator[Conversation]:
    """An endless, reproducible stream of conversations that end where the model is to answer."""
    rng = random.Random(seed)
    while True:
        yield _conversation(rng, domain)


def text(rng: random.Random, domain: Domain) -> str:
    """A content: often plain, sometimes empty, mostly awkward."""
    pieces = _PIECES + _WIDE_SPACES if domain.wide_spaces else _PIECES
    made = "".join(rng.choice(pieces) for _ in range(rng.choice((0, 1, 1, 2, 3, 5, 8))))
    return made if domain.blank or made.strip() else ""


def _conversation(rng: random.Random, domain: Domain) -> Conversation:
    messages: list[Message] = []
    if rng.random() < 0.5:
        messages.append(Message("system", text(rng, domain)))
    if domain.assistant_first and rng.random() < 0.15:
        messages.append(Message("assistant", text(rng, domain)))
    tools = (
        tuple(_tool(rng, domain, n) for n in range(rng.randint(1, 3)))
        if domain.tools and rng.random() < 0.5
        else ()
    )
    for _ in range(rng.choice((0, 0, 1, 1, 2, 4))):
        messages += _turn(rng, domain, answered=True)
    messages += _turn(rng, domain, answered=False)
    think = rng.choice((None, True, False)) if domain.thinking else None
    return Conversation(tuple(messages), tools, think)


def _turn(rng: random.Random, domain: Domain, *, answered: bool) -> Iterator[Message]:
    """A user's message, perhaps with calls and their results, and the answer."""
    if domain.later_system and rng.random() < 0.15:
        yield Message("system", text(rng, domain))
    yield Message("user", text(rng, domain))
    if domain.tools and rng.random() < 0.4:
        for _ in range(rng.choice((1, 1, 2))):
            yield from _round(rng, domain)
    if answered:
        yield Message("assistant", text(rng, domain))


def _round(rng: random.Random, domain: Domain) -> Iterator[Message]:
    """Calls and their results."""
    calls = tuple(_call(rng, domain) for _ in range(rng.choice((1, 1, 2))))
    yield Message("assistant", rng.choice(("", text(rng, domain))), calls)
    for _ in calls:
        yield Message("tool", text(rng, domain))


def _tool(rng: random.Random, domain: Domain, number: int) -> Tool:
    names = rng.sample(_WORDS, rng.randint(0, 3))
    parameters = tuple(_parameter(rng, domain, name) for name in names)
    required = tuple(sorted(n for n in names if rng.random() < 0.5))
    return Tool(f"tool_{number}", text(rng, domain), parameters, required)


def _parameter(rng: random.Random, domain: Domain, name: str) -> Parameter:
    enum = tuple(rng.sample(("one", "two", 'th"ree'), 2)) if rng.random() < 0.3 else ()
    return Parameter(name, rng.choice(_TYPES), rng.choice(("", text(rng, domain))), enum)


def _call(rng: random.Random, domain: Domain) -> ToolCall:
    arguments = {name: _value(rng, domain, 2) for name in rng.sample(_WORDS, rng.randint(0, 3))}
    return ToolCall(rng.choice(("tool_0", "get_weather")), arguments)


def _value(rng: random.Random, domain: Domain, depth: int) -> Json:
    """A JSON value. Numbers are those that Go's float64 and Python write alike."""
    kind = rng.randrange(7 if depth else 5)
    if kind == 5:
        return [_value(rng, domain, depth - 1) for _ in range(rng.randint(0, 2))]
    if kind == 6:
        return {name: _value(rng, domain, depth - 1) for name in rng.sample(_WORDS, rng.randint(0, 2))}
    return (
        text(rng, domain),
        text(rng, domain),
        rng.randint(-9999, 10**9),
        rng.choice((0.5, -2.25, 1234.5)),
        rng.choice((True, None)),
    )[kind]
