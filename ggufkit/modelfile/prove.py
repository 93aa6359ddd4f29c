"""The proof: both sides write the same prompts, and the same token ids, for many conversations."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

from ggufkit.core.errors import InputError
from ggufkit.modelfile import gotemplate, ollama_prompt
from ggufkit.modelfile.conversation import Conversation, Message, collate
from ggufkit.modelfile.gotemplate import GoTemplateError
from ggufkit.modelfile.questions import Domain, all_questions
from ggufkit.modelfile.random_conversations import random_conversations
from ggufkit.modelfile.reference import Reference

Encode = Callable[[Sequence[str]], Sequence[Sequence[int]]]
"""Texts to token ids: special tokens recognized, none added."""

DEFAULT_COUNT = 300
_ATTEMPTS = 20  # Random conversations drawn for each one that the source template has to accept.


@dataclass(frozen=True)
class Difference:
    """A conversation with the two prompts, or the two lists of token ids, that it leads to."""

    conversation: Conversation
    expected: str | Sequence[int]
    found: str | Sequence[int]

    def describe(self) -> list[str]:
        """The conversation and the place where the two part, in a few lines."""
        lines = [f"  {m.role}: {m.content!r}{_calls(m)}" for m in self.conversation.messages]
        at = next((i for i, (a, b) in enumerate(zip(self.expected, self.found, strict=False)) if a != b), None)
        at = min(len(self.expected), len(self.found)) if at is None else at
        part = slice(max(0, at - 40), at + 80)
        lines += [f"They differ from position {at} on:", f"  chat template: {self.expected[part]!r}"]
        return [*lines, f"  Modelfile:     {self.found[part]!r}"]


class UnprovenTemplate(InputError):
    """The Modelfile would lead to other prompts than the chat template."""

    def __init__(self, difference: Difference) -> None:
        tools = len(difference.conversation.tools)
        message = f"The prompts differ for this conversation ({tools} tools):"
        hint = "Use the other --template kind, or --force to write it all the same."
        super().__init__(message, hint=hint, details=difference.describe())
        self.difference = difference


@dataclass(frozen=True)
class Vocabulary:
    """Tokenizers for the proof: the model's original one, and the GGUF's."""

    original: Encode
    gguf: Encode


@dataclass(frozen=True)
class Proof:
    """What was compared.

    Args:
        conversations: how many prompts were identical.
        refused: how many conversations the source template refuses, which leaves nothing to compare.
        token_ids: whether token ids were compared, too.
        bos: where the beginning-of-sequence token comes from: "tokenizer", "template" or "none".
    """

    conversations: int
    refused: int
    token_ids: bool
    domain: Domain
    bos: str


def prove(
    reference: Reference,
    template: str,
    domain: Domain,
    *,
    count: int = DEFAULT_COUNT,
    seed: int = 0,
    vocabulary: Vocabulary | None = None,
) -> Proof:
    """Compare a Go template with the model's chat template, on the questions of a domain and on random conversations.

    Args:
        count: random conversations, of those that the chat template accepts.

    Raises:
        UnprovenTemplate: at the first difference.
    """
    drawn = islice(random_conversations(domain, seed), count * _ATTEMPTS)
    same, refused = compare(reference, template, all_questions(domain))
    more, refused_more = compare(reference, template, drawn, count)
    if len(more) < count:
        raise InputError(
            f"The chat template of {reference.meta.name} refuses nearly all conversations; it took {len(more)}."
        )
    if vocabulary is not None:
        compare_ids(reference, [*same, *more], vocabulary)
    total = len(same) + len(more)
    return Proof(total, refused + refused_more, vocabulary is not None, domain, bos_source(reference))


def compare(
    reference: Reference, template: str, candidates: Iterable[Conversation], count: int | None = None
) -> tuple[list[tuple[Conversation, str]], int]:
    """Compare prompts until `count` conversations were accepted.

    Returns the conversations with their prompts, and how many the chat template refused.

    Raises:
        UnprovenTemplate: at the first difference.
    """
    parsed, same, refused = gotemplate.parse(template), list[tuple[Conversation, str]](), 0
    for conversation in candidates:
        expected = reference.render(collate(conversation))
        if expected is None:
            refused += 1
            continue
        try:
            found = ollama_prompt.execute(parsed, conversation, reference.today)
        except GoTemplateError as error:
            found = f"error: {error.message}"
        if found != expected:
            raise UnprovenTemplate(Difference(conversation, expected, found))
        same.append((conversation, expected))
        if len(same) == count:
            break
    return same, refused


def compare_ids(reference: Reference, prompts: Sequence[tuple[Conversation, str]], vocabulary: Vocabulary) -> None:
    """Compare the ids of the original's whole prompt with those of what Ollama sends, to which it may add BOS.

    Raises:
        UnprovenTemplate: at the first difference.
    """
    bos = reference.meta.bos_token if reference.meta.add_bos else ""
    texts = [prompt for _, prompt in prompts]
    first = list(vocabulary.gguf([bos])[0]) if bos else []
    expected = vocabulary.original([bos + text for text in texts])
    found = vocabulary.gguf(texts)
    for (conversation, _), a, b in zip(prompts, expected, found, strict=True):
        if list(a) != [*first, *b]:
            raise UnprovenTemplate(Difference(conversation, list(a), [*first, *b]))


def bos_source(reference: Reference) -> str:
    """Where the beginning-of-sequence token of a prompt comes from."""
    if reference.meta.add_bos:
        return "tokenizer"
    text = reference.render(Conversation((Message("user", "Hello"),))) or ""
    bos = reference.meta.bos_token
    return "template" if bos and text.startswith(bos) else "none"


def _calls(message: Message) -> str:
    return "".join(f" -> {call.name}({dict(call.arguments)!r})" for call in message.tool_calls)
