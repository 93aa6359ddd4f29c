"""Watch a chat template at work: render a question and cut the prompt at what came from the conversation."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ggufkit.modelfile.conversation import Conversation, Message, Tool, sort_keys, tool_schema
from ggufkit.modelfile.placeholders import (
    TRANSFORMS,
    Calls,
    Content,
    MessagesOutOfOrder,
    Placeholders,
    System,
    Today,
    Tools,
    UnlearnableTemplate,
    is_placeholder,
)
from ggufkit.modelfile.questions import marker
from ggufkit.modelfile.reference import Reference

# More line breaks than any template writes before or after a content, so that none of its own is mistaken for one.
_LEFT, _RIGHT = '\n\n\n\n\n\u3000\n"\\', '"\n\u3000\n\n\n\n\n'
_INDENTS = (None, 2, 4)
_LEFTOVER = re.compile(r"(?:tool|call|value)?Xq\w+")


@dataclass(frozen=True)
class Step:
    """A message in a prompt: the text since the previous one, and the text from its first to its last placeholder."""

    index: int
    before: str
    core: str


@dataclass(frozen=True)
class Observation:
    """A prompt cut into the messages that it shows, and what follows the last of them."""

    conversation: Conversation
    steps: tuple[Step, ...]
    tail: str

    def translate(self, placeholders: Mapping[int, str]) -> Observation:
        """The same with some placeholders replaced by others."""
        steps = (
            Step(s.index, s.before.translate(placeholders), s.core.translate(placeholders)) for s in self.steps
        )
        return Observation(self.conversation, tuple(steps), self.tail.translate(placeholders))


@dataclass(frozen=True)
class Observer:
    """Asks one template questions.

    Args:
        placeholders: those that the answers have shown; they grow with every new kind of insertion.
        system: how system messages are taken: "inline" where they stand, or lifted out to where the template puts
            the "first", the "last" or "all" of them joined.
        joined: whether white space before a content that is trimmed at its end belongs to what is trimmed.
        same: placeholders, by code point, that are to be taken for others.
    """

    reference: Reference
    placeholders: Placeholders
    system: str
    joined: bool
    same: Mapping[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if any(is_placeholder(c) for c in self.reference.meta.chat_template or ""):
            raise UnlearnableTemplate("The chat template contains Unicode noncharacters.")

    def lifted(self, conversation: Conversation) -> list[int]:
        """The indices of the system messages that are lifted out of their place."""
        systems = [i for i, m in enumerate(conversation.messages) if m.role == "system"]
        if self.system == "inline":
            return []
        return [i for i in systems if i == 0] if self.system == "first" else systems

    def observe_all(self, conversations: Iterable[Conversation], *, generation: bool = True) -> list[Observation]:
        """What is seen of those conversations that the template does not refuse."""
        seen = (self.observe(conversation, generation=generation) for conversation in conversations)
        return [observation for observation in seen if observation is not None]

    def observe(self, conversation: Conversation, *, generation: bool = True) -> Observation | None:
        """Cut the prompt of a conversation; None where the template refuses it.

        Raises:
            UnlearnableTemplate: the prompt shows the conversation in a way that cannot be followed.
        """
        text = self._render(conversation, generation)
        if text is None:
            return None
        text, spans = self._spans(conversation, text, generation)
        steps, at = list[Step](), 0
        for index, start, end in sorted(spans, key=lambda s: s[1]):
            if start < at or (steps and index <= steps[-1].index):
                raise MessagesOutOfOrder("The chat template shows messages out of order.")
            steps.append(Step(index, text[at:start], text[start:end]))
            at = end
        if found := _LEFTOVER.search(text):
            raise UnlearnableTemplate(
                f"The chat template shows {found.group()!r} in a form that cannot be followed."
            )
        return Observation(conversation, tuple(steps), text[at:]).translate(self.same)

    def _render(self, conversation: Conversation, generation: bool) -> str | None:
        formats: list[str] = []

        def mark(form: str) -> str:
            formats.append(form)
            return f"\x01{len(formats) - 1}\x01"

        text = self.reference.render(conversation, generation=generation, strftime=mark)
        for i, form in enumerate(formats):
            text = text and text.replace(f"\x01{i}\x01", self.placeholders.char(Today(form)))
        return text

    def _spans(
        self, conversation: Conversation, text: str, generation: bool
    ) -> tuple[str, list[tuple[int, int, int]]]:
        """The text with placeholders for everything inserted, and where those of each message begin and end."""
        if conversation.tools:
            text = self._replace_tools(conversation.tools, text)
        lifted, padded = self.lifted(conversation), self._padded(conversation, generation)
        text = self._replace_lifted(conversation, text, padded)
        for index, message in enumerate(conversation.messages):
            if message.tool_calls:
                text = self._replace_calls(message, text, index)
            if message.content and index not in lifted and marker(index) in text:
                if text.count(marker(index)) > 1:
                    raise UnlearnableTemplate(f"The chat template shows a {message.role} message more than once.")
                text = self._replace_content(text, index, _transform(marker(index), padded))
        return self._locate(text)

    def _replace_content(self, text: str, index: int, transform: str) -> str:
        before, after = text.split(marker(index))
        lead = before[len(before.rstrip()) :] if self.joined and transform == "trimRight" else ""
        tag = _tag(index, self.placeholders.char(Content(transform, lead)))
        return before[: len(before) - len(lead)] + tag + after

    def _replace_lifted(self, conversation: Conversation, text: str, padded: str) -> str:
        """The text with what it shows of lifted system messages replaced by one placeholder."""
        contents = [conversation.messages[i].content for i in self.lifted(conversation)]
        joined = "\n\n".join(contents[-1 if self.system == "last" else 0 :])
        if not joined or joined not in text:
            return text
        known = [placeholder for placeholder in self.placeholders.known if isinstance(placeholder, System)]
        if contents[0] and contents[-1]:
            return text.replace(joined, self.placeholders.char(System(_transform(joined, padded))))
        return text.replace(joined, self.placeholders.char(known[0] if known else System()))

    def _padded(self, conversation: Conversation, generation: bool) -> str:
        """The prompt with white space and quotes around every content, to see what becomes of them.

        System messages that are joined get them around the whole.
        """
        lifted = [i for i in self.lifted(conversation) if conversation.messages[i].content]
        for i, message in enumerate(conversation.messages):
            left = "" if i in lifted[1:] and self.system == "all" else _LEFT
            right = "" if i in lifted[:-1] and self.system == "all" else _RIGHT
            if message.content:
                conversation = conversation.with_content(i, left + message.content + right)
        return self._render(conversation, generation) or ""

    def _locate(self, text: str) -> tuple[str, list[tuple[int, int, int]]]:
        """Turn the tags around placeholders into spans."""
        out, spans = "", dict[int, tuple[int, int]]()
        for piece in re.split(r"(\x02\d+:.\x02)", text, flags=re.S):
            if piece.startswith("\x02"):
                number, char = piece[1:-1].split(":", 1)
                start, _ = spans.get(int(number), (len(out), 0))
                out += char
                spans[int(number)] = (start, len(out))
            else:
                out += piece
        return out, [(i, start, end) for i, (start, end) in spans.items()]

    def _replace_tools(self, tools: tuple[Tool, ...], text: str) -> str:
        for form in ("tool", "function"):
            schemas = [tool_schema(t) if form == "tool" else tool_schema(t)["function"] for t in tools]
            for indent in _INDENTS:
                first, second = (json.dumps(s, ensure_ascii=False, indent=indent) for s in schemas)
                match = re.search(re.escape(first) + r"(.{0,200}?)" + re.escape(second), text, re.S)
                if match:
                    return text.replace(match.group(), self.placeholders.char(Tools(form, indent, match[1])))
        return text

    def _replace_calls(self, message: Message, text: str, index: int) -> str:
        names = [re.escape(call.name) for call in message.tool_calls]
        for indent in _INDENTS:
            values = [sort_keys(call.arguments) for call in message.tool_calls]
            args = [json.dumps(value, ensure_ascii=False, indent=indent) for value in values]
            pairs = [rf"{n}(.{{0,200}}?){re.escape(a)}" for n, a in zip(names, args, strict=True)]
            match = re.search(r"(.{0,200}?)".join(pairs), text, re.S)
            if match:
                middles, between = match.groups()[::2], match.groups()[1::2]
                placeholder = self.placeholders.char(Calls(middles[0], between[0] if between else None, indent))
                if len({*middles}) == 1 and len({*between}) <= 1:
                    return text.replace(match.group(), _tag(index, placeholder))
        raise UnlearnableTemplate("The chat template shows tool calls in a form that cannot be followed.")


def _transform(shown: str, padded: str) -> str:
    """What a template does to a content, told from the longest form in which the padded prompt shows it."""
    forms = {name: transform(_LEFT + shown + _RIGHT) for name, transform in TRANSFORMS.items()}
    found = [name for name, form in forms.items() if form in padded]
    if not found:
        raise UnlearnableTemplate("The chat template changes contents in a way that has no Go counterpart.")
    return max(found, key=lambda name: len(forms[name]))


def _tag(index: int, char: str) -> str:
    return f"\x02{index}:{char}\x02"
