"""Turn a chat template into a Go template for Ollama, over the widest domain in which that can be done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date
from itertools import islice

from ggufkit.modelfile.conversation import Conversation, Message, collate
from ggufkit.modelfile.emit import emit
from ggufkit.modelfile.learn import Shape, learn
from ggufkit.modelfile.metadata import ChatMeta
from ggufkit.modelfile.placeholders import UnlearnableTemplate
from ggufkit.modelfile.prove import UnprovenTemplate, compare
from ggufkit.modelfile.questions import Domain, all_questions, questions, skeleton
from ggufkit.modelfile.random_conversations import random_conversations
from ggufkit.modelfile.reference import Reference

_TRIALS, _TRIAL_SEED, _MOST_LESSONS = 200, 1, 8

# The extras of a domain, the most wanted first, and what is said where one cannot be had.
_EXTRAS = {
    "tools": "tools are left out; Ollama from 0.30 on can take the GGUF's own template for them",
    "thinking": "the thinking switch has no effect",
    "later_system": "only a first system message is covered",
    "assistant_first": "conversations that begin with the assistant are not covered",
    "blank": "messages of nothing but white space are not covered",
}


@dataclass(frozen=True)
class LearnedTemplate:
    """A Go template for Ollama with what it covers.

    Args:
        text: the template.
        shape: what was learned of the source.
        limits: what lies beyond, in words; each a clause of its own.
    """

    text: str
    shape: Shape
    limits: tuple[str, ...] = ()

    @property
    def domain(self) -> Domain:
        """Which conversations the template covers."""
        return self.shape.domain


def to_go_template(meta: ChatMeta, today: date | None = None, *, unchecked: bool = False) -> LearnedTemplate:
    """Turn a model's chat template into one for Go. It has been tried on its questions; `prove` goes further.

    Args:
        unchecked: return what was learned of plain chats even where it is wrong for some of them.

    Raises:
        UnlearnableTemplate: even plain chats are beyond what the Go templates can express.
        UnprovenTemplate: a learned template fails for a plain chat.
        ChatTemplateError: the source is not a usable template.
    """
    reference = Reference(meta, today)
    plain = Domain(system=reference.takes_system)
    wanted = [name for name in _EXTRAS if _makes_sense(reference, replace(plain, **{name: True}), plain)]
    try:
        return _attempt(reference, replace(plain, **dict.fromkeys(wanted, True)), {})
    except (UnlearnableTemplate, UnprovenTemplate):
        if unchecked:
            shape = learn(reference, plain)
            return LearnedTemplate(emit(shape), shape, _limits(reference, {}))
        return _step_by_step(reference, plain, wanted)


def _step_by_step(reference: Reference, plain: Domain, wanted: list[str]) -> LearnedTemplate:
    """Widen the domain by one extra after the other and keep those that hold."""
    converted, left_out = _attempt(reference, plain, {}), dict[str, str]()
    for name in wanted:
        try:
            converted = _attempt(reference, replace(converted.domain, **{name: True}), left_out)
        except (UnlearnableTemplate, UnprovenTemplate) as reason:
            left_out[name] = reason.message.rstrip(":.")
    return replace(converted, limits=_limits(reference, left_out))


def _attempt(reference: Reference, domain: Domain, left_out: Mapping[str, str]) -> LearnedTemplate:
    """Learn over a domain; a conversation that proves the result wrong teaches the next attempt."""
    lessons: list[Conversation] = []
    while True:
        shape = learn(reference, domain, lessons)
        text = emit(shape, thinking=_reasons(reference.meta))
        try:
            compare(reference, text, all_questions(domain))
            compare(reference, text, islice(random_conversations(domain, _TRIAL_SEED), _TRIALS))
        except UnprovenTemplate as failure:
            lesson = skeleton(collate(failure.difference.conversation))
            if lesson in lessons or len(lessons) == _MOST_LESSONS:
                raise
            lessons.append(lesson)
        else:
            return LearnedTemplate(text, shape, _limits(reference, left_out))


def _makes_sense(reference: Reference, wider: Domain, plain: Domain) -> bool:
    """Whether the source takes, and tells apart, what a wider domain adds."""
    if wider.blank:
        return True
    known = {repr(c) for c in questions(plain)}
    added = [c for c in questions(wider) if repr(c) not in known]
    if wider.tools or wider.thinking:
        return any(reference.render(c) != reference.render(replace(c, tools=(), think=None)) for c in added)
    return any(reference.render(c) is not None for c in added)


def _limits(reference: Reference, left_out: Mapping[str, str]) -> tuple[str, ...]:
    """What a reader of the Modelfile should know about what is beyond the proof."""
    limits = [f"{_EXTRAS[name]} ({reason})" for name, reason in left_out.items()]
    if not reference.takes_system:
        limits.append(
            "the source refuses system messages, which are merged into the next message, as llama.cpp does"
        )
    thought = Message("assistant", "<think>private</think>public")
    text = reference.render(Conversation((Message("user", "a"), thought, Message("user", "b"))))
    if text is not None and "private" not in text:
        limits.append("reasoning inside earlier answers is not cut out, as Ollama passes it separately")
    return tuple(limits)


def _reasons(meta: ChatMeta) -> bool:
    """Whether the model writes its reasoning between think tags."""
    source = meta.chat_template or ""
    return "<think>" in source and "</think>" in source
