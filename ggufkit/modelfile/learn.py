"""Learn a chat template by its behaviour: which text stands before, in and after each message, depending on what.

For each role a decision tree over features that a Go template can see leads to the text of a message. The tree
uses the fewest features that explain every answer. Watching what a template does, rather than translating how it is
written, makes macros, filters and namespaces a matter of course; what the trees cannot express is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

from ggufkit.modelfile.conversation import Conversation
from ggufkit.modelfile.features import Kind, Sampler, kind
from ggufkit.modelfile.observe import Observation, Observer
from ggufkit.modelfile.placeholders import (
    Calls,
    Close,
    Content,
    MessagesOutOfOrder,
    Placeholders,
    Tools,
    UnlearnableTemplate,
)
from ggufkit.modelfile.questions import Domain, prefixes, questions
from ggufkit.modelfile.reference import Reference
from ggufkit.modelfile.trees import Sample, Tree, common_end, common_prefix, common_suffix, fit

SYSTEM_MODES = ("inline", "first", "last", "all")


@dataclass(frozen=True)
class Shape:
    """A learned template.

    Args:
        roles: the text of a message, by role.
        tail: the text after the last message, where the model is to go on.
        system: how system messages are taken; see `Observer`.
        folds_system: whether the system message is merged into the message after it.
        after_answer: the text between an answer and the content of the next user message, to derive stop strings from.
        answer_end: the text that ends an answer.
    """

    domain: Domain
    placeholders: Placeholders
    roles: Mapping[str, Tree]
    tail: Tree
    system: str
    folds_system: bool
    after_answer: str
    answer_end: str


def learn(reference: Reference, domain: Domain, more: Sequence[Conversation] = ()) -> Shape:
    """Learn a template over a domain, in the first way of taking system messages that explains it.

    Args:
        more: questions besides those of the domain.

    Raises:
        UnlearnableTemplate: no way does; the message says what stood against one of them.
    """
    failures: list[UnlearnableTemplate] = []
    for system, joined in product(SYSTEM_MODES, (False, True)):
        try:
            return _learn(Observer(reference, Placeholders(), system, joined), domain, more)
        except UnlearnableTemplate as failure:
            failures.append(failure)
    raise next((f for f in failures if not isinstance(f, MessagesOutOfOrder)), failures[0])


def _learn(observer: Observer, domain: Domain, more: Sequence[Conversation]) -> Shape:
    """Learn from messages with contents, then see what empty ones change."""
    placeholders = observer.placeholders
    asked = observer.observe_all([*questions(domain), *more])
    _require_answers(asked, domain, placeholders)
    # What was learned of single calls holds for several ones, too.
    same = _single_calls(placeholders)
    observer, seen = replace(observer, same=same), [observation.translate(same) for observation in asked]
    sampler = Sampler(observer, _closings(observer, seen))
    samples = [sample for observation in seen for sample in sampler.samples(observation)]
    samples += list(sampler.exceptions(fit(samples), [o.conversation for o in seen]))
    trees = fit(_pull_calls(samples, placeholders))
    if any(isinstance(p, Content) and p.lead for p in placeholders.known) != observer.joined:
        raise UnlearnableTemplate("The chat template trims no white space of its own.")
    after, end = _after_answer(seen, sampler.closings)
    roles = {role: tree for role, tree in trees.items() if role}
    folds = not observer.reference.takes_system
    return Shape(domain, placeholders, roles, trees[""], observer.system, folds, after, end)


def _require_answers(seen: Sequence[Observation], domain: Domain, placeholders: Placeholders) -> None:
    if not seen:
        raise UnlearnableTemplate("The chat template refuses every conversation that it was tried with.")
    if domain.tools and not any(isinstance(p, Tools) for p in placeholders.known):
        raise UnlearnableTemplate("The chat template does not show tools.")
    if domain.tools and not any(m.tool_calls for o in seen for m in o.conversation.messages):
        raise UnlearnableTemplate("The chat template refuses tool calls as Ollama passes them.")


def _single_calls(placeholders: Placeholders) -> dict[int, str]:
    """The placeholders of single calls, by code point, and those of several calls in the same form."""
    calls = [p for p in placeholders.known if isinstance(p, Calls)]
    several = {(c.middle, c.indent): placeholders.char(c) for c in calls if c.separator is not None}
    single = [c for c in calls if c.separator is None and (c.middle, c.indent) in several]
    return {ord(placeholders.char(c)): several[c.middle, c.indent] for c in single}


def _closings(observer: Observer, seen: Sequence[Observation]) -> dict[Kind, str]:
    """What always follows a message of a kind.

    A conversation rendered without generation prompt ends where its last message does, which tells the end of
    a turn from the beginning of the next one.
    """
    following: dict[Kind, list[str]] = {}
    cut = observer.observe_all(prefixes([o.conversation for o in seen]), generation=False)
    for observation in [*seen, *cut]:
        texts = [*(step.before for step in observation.steps[1:]), observation.tail]
        for step, text in zip(observation.steps, texts, strict=False):
            following.setdefault(kind(observation.conversation, step.index), []).append(text)
    return {message: common_end(texts) for message, texts in following.items()}


def _after_answer(seen: Sequence[Observation], closings: Mapping[Kind, str]) -> tuple[str, str]:
    """The text from an answer to the next user message, and the part of it that ends the answer."""
    for observation in seen:
        roles = [m.role for m in observation.conversation.messages]
        if roles == ["user", "assistant", "user"] and len(observation.steps) == 3:
            return observation.steps[2].before, closings.get(("assistant", False, False, False), "")
    return "", ""


def _pull_calls(samples: list[Sample], placeholders: Placeholders) -> list[Sample]:
    """Move what surrounds each single call into its placeholder: Ollama finds the tag of calls there."""
    for placeholder in [h for h in placeholders.known if isinstance(h, Calls)]:
        char, close = placeholders.char(placeholder), placeholders.char(Close())
        texts = [s.text for s in samples if char in s.text]
        if not texts:
            continue
        before = [text[: text.index(char)] for text in texts]
        after = [text[text.index(char) + 1 :].replace(close, "") for text in texts]
        between = placeholder.separator
        opening = common_suffix([*before, between] if between is not None else before)
        opening = opening if between is not None else opening[opening.rfind("\n") + 1 :]
        ending = "" if between is None else common_prefix([*after, between[: len(between) - len(opening)]])
        left = None if between is None else between[len(ending) : len(between) - len(opening)]
        pulled = placeholders.char(Calls(placeholder.middle, left, placeholder.indent, opening, ending))
        pattern = re.compile(f"{re.escape(opening)}{char}({close}?){re.escape(ending)}")
        samples = [replace(s, text=pattern.sub(rf"{pulled}\1", s.text)) for s in samples]
    return samples
