"""What a prompt ought to be: the model's own Jinja chat template, rendered as transformers renders it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date
from functools import cached_property
from typing import Any

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ggufkit.core import limits
from ggufkit.core.errors import InputError
from ggufkit.modelfile.conversation import Conversation, Message, hf_messages, tool_schema
from ggufkit.modelfile.metadata import ChatMeta

_OF_THE_AUTHOR = "Take the template of the model's author."
FOLD_SEPARATOR = "\n"
"""What llama.cpp puts between a system message and the message it folds it into (`common/chat.cpp`)."""


_SLOW_S, _LONG = 2.0, 1 << 20
"""Seconds and characters of one prompt that no template takes for a few messages: they take milliseconds, and there are
hundreds to render."""


class ChatTemplateError(InputError):
    """A chat template that is not valid Jinja, or renders no text conversation at all."""


class Reference:
    """A model's own chat template: what the prompt of a conversation ought to be.

    A template that refuses system messages gets them folded into the message that follows, which is what llama.cpp
    does with such a template. A leading beginning-of-sequence token is cut where the tokenizer adds one by itself.

    Args:
        today: the date that a template gets if it asks.
        variables: further variables for the template.

    Raises:
        ChatTemplateError: the template cannot be compiled or refuses the simplest conversation.
    """

    def __init__(
        self, meta: ChatMeta, today: date | None = None, variables: Mapping[str, str] | None = None
    ) -> None:
        if meta.chat_template is None:
            raise ChatTemplateError(f"{meta.name} has no chat template.")
        self.meta = meta
        self.today = today or date.today()
        self.variables = dict(variables or {})
        what, hint = f"The chat template of {meta.name}", _OF_THE_AUTHOR
        with _refusals() as refused:
            self._template = _environment().from_string(meta.chat_template)
        if refused:
            raise ChatTemplateError(f"{what} is not valid Jinja: {refused[0]}", hint=hint)
        with _refusals() as refused:
            self._render(Conversation((Message("user", "Hello"),)))
        if refused:
            raise ChatTemplateError(f"{what} cannot render one message: {refused[0]}", hint=hint)

    @cached_property
    def takes_system(self) -> bool:
        """Whether the template accepts a conversation that opens with a system message."""
        with _refusals() as refused:
            self._render(Conversation((Message("system", "Be brief."), Message("user", "Hello"))))
        return not refused

    @property
    def mentions_thinking(self) -> bool:
        """Whether the template looks at the switch that Ollama's `think` stands for."""
        return "enable_thinking" in (self.meta.chat_template or "")

    def render(
        self,
        conversation: Conversation,
        *,
        generation: bool = True,
        strftime: Callable[[str], str] | None = None,
    ) -> str | None:
        """The prompt of a conversation; None where the template refuses it.

        Args:
            generation: end it where the model is to answer.
            strftime: gives the date in the form that the template asks for, in place of today's.
        """
        if conversation.has_system and not self.takes_system:
            conversation = fold_system(conversation)
        with _refusals():
            return self.without_bos(self._render(conversation, generation, strftime))
        return None

    def whole(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Any] | None = None) -> str:
        """A conversation to its end, as transformers' `apply_chat_template` renders it; its BOS stays.

        Raises:
            ChatTemplateError: the template refuses it; the message has its reason.
        """
        first, *rest = messages
        if first["role"] == "system" and rest and not self.takes_system:
            folded = f"{first.get('content')}{FOLD_SEPARATOR}{rest[0].get('content')}"
            messages = [{**rest[0], "content": folded}, *rest[1:]]
        with _refusals() as refused:
            return self._fill(messages, tools, add_generation_prompt=False)
        raise ChatTemplateError(
            f"The chat template of {self.meta.name} refuses it: {refused[0]}", hint=_OF_THE_AUTHOR
        )

    def without_bos(self, prompt: str) -> str:
        """A prompt without the beginning-of-sequence token that the tokenizer adds by itself."""
        return prompt.removeprefix(self.meta.bos_token) if self.meta.add_bos else prompt

    def _render(
        self,
        conversation: Conversation,
        generation: bool = True,
        strftime: Callable[[str], str] | None = None,
    ) -> str:
        options: dict[str, Any] = {} if conversation.think is None else {"enable_thinking": conversation.think}
        tools = [tool_schema(t) for t in conversation.tools] or None
        return self._fill(
            hf_messages(conversation),
            tools,
            add_generation_prompt=generation,
            strftime_now=strftime or self.today.strftime,
            **options,
        )

    def _fill(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Any] | None, **options: Any) -> str:
        begun = time.process_time()
        told = {"strftime_now": self.today.strftime, **self.variables, **options}
        prompt = self._template.render(
            messages=messages,
            tools=tools,
            documents=None,
            bos_token=self.meta.bos_token,
            eos_token=self.meta.eos_token,
            **told,
        )
        if time.process_time() - begun > _SLOW_S or len(prompt) > _LONG:
            much = "takes seconds, or makes a million characters, for a few messages"
            raise ChatTemplateError(f"The chat template of {self.meta.name} {much}.", hint=_OF_THE_AUTHOR)
        return prompt


def fold_system(conversation: Conversation) -> Conversation:
    """Merge a leading system message into the message after it, as llama.cpp does."""
    system, *rest = conversation.messages
    if not rest:
        return conversation
    merged = Message(rest[0].role, system.content + FOLD_SEPARATOR + rest[0].content, rest[0].tool_calls)
    return Conversation((merged, *rest[1:]), conversation.tools, conversation.think)


@contextmanager
def _refusals() -> Iterator[list[str]]:
    """Keep the reason why a template refuses: by raise_exception, or by tripping over what it does not expect.

    What a template takes of time and memory without end is no refusal.
    """
    reasons: list[str] = []
    limits.renew()
    try:
        yield reasons
    except (MemoryError, ChatTemplateError):
        raise
    except Exception as error:
        reasons.append(str(error) or type(error).__name__)


def _environment() -> ImmutableSandboxedEnvironment:
    """The environment of transformers' `render_jinja_template`, without importing transformers."""
    env = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, loopcontrols]
    )
    env.filters["tojson"] = _tojson
    env.globals["raise_exception"] = _raise_exception
    return env


def _tojson(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


class _GenerationTag(Extension):
    """`{% generation %}` marks what to train on; for a prompt it is its content."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 declares it so

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        """Parse to the tag's body."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)
