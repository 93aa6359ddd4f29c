"""Learn a chat template by its behaviour: which text stands before, in and after each message, depending on what.

For each role a decision tree over features that a Go template can see leads to the text of a message. The tree
uses the fewest features that explain every probe. Probing what a template does, rather than translating how it is
written, makes macros, filters and namespaces a matter of course; what the trees cannot express is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

from ggufkit.modelfile.conversation import Conversation
from ggufkit.modelfile.observe import Observation, Observer
from ggufkit.modelfile.placeholders import (
    Calls,
    Close,
    Content,
    Holes,
    MessagesOutOfOrder,
    System,
    Tools,
    UnlearnableTemplate,
)
from ggufkit.modelfile.questions import Domain, emptied, prefixes, probes
from ggufkit.modelfile.reference import Reference
from ggufkit.modelfile.trees import Features, Sample, Tree, common_end, common_prefix, common_suffix, decide, fit

SYSTEM_MODES = ("inline", "first", "last", "all")

_Kind = tuple[str, bool, bool, bool]


@dataclass(frozen=True)
class Shape:
    """A learned template.

    Args:
        roles: the text of a message, by role.
        tail: the text after the last message, where the model is to go on.
        system: how system messages are taken; see `Observer`.
        folds_system: whether the system message is merged into the message after it.
        after_answer: the text between an answer and the next question's content, to derive stop strings from.
        answer_end: the text that ends an answer.
    """

    domain: Domain
    holes: Holes
    roles: Mapping[str, Tree]
    tail: Tree
    system: str
    folds_system: bool
    after_answer: str
    answer_end: str


def learn(reference: Reference, domain: Domain, more: Sequence[Conversation] = ()) -> Shape:
    """Learn a template over a domain, in the first way of taking system messages that explains it.

    Args:
        more: probes besides those of the domain.

    Raises:
        UnlearnableTemplate: no way does; the message says what stood against one of them.
    """
    failures: list[UnlearnableTemplate] = []
    for system, joined in product(SYSTEM_MODES, (False, True)):
        try:
            return _Learner(reference, domain, more, system, joined).shape()
        except UnlearnableTemplate as failure:
            failures.append(failure)
    raise next((f for f in failures if not isinstance(f, MessagesOutOfOrder)), failures[0])


class _Learner:
    """Learns with system messages and trimmed contents taken in one way; see `Observer`."""

    def __init__(
        self, reference: Reference, domain: Domain, more: Sequence[Conversation], system: str, joined: bool
    ) -> None:
        self.reference = reference
        self.domain = domain
        self.more = more
        self.system = system
        self.holes = Holes()
        self.close = self.holes.char(Close())
        self.observer = Observer(reference, self.holes, system, joined)
        self.same: dict[int, str] = {}

    def shape(self) -> Shape:
        """Learn from messages with contents, then see what empty ones change."""
        seen = self._observe_probes()
        self.closings = self._closings(seen)
        samples = [sample for observation in seen for sample in self._samples(observation)]
        samples += self._exceptions(fit(samples), [o.conversation for o in seen])
        trees = fit(_pull_calls(samples, self.holes))
        tail = trees.pop("")
        after, end = self._after_answer(seen)
        if any(isinstance(hole, Content) and hole.lead for hole in self.holes.known) != self.observer.joined:
            raise UnlearnableTemplate("The chat template trims no white space of its own.")
        folds = not self.reference.takes_system
        return Shape(self.domain, self.holes, trees, tail, self.system, folds, after, end)

    def _observe(self, conversations: Iterable[Conversation], *, generation: bool = True) -> list[Observation]:
        seen = (self.observer.observe(c, generation=generation) for c in conversations)
        return [observation.translate(self.same) for observation in seen if observation is not None]

    def _observe_probes(self) -> list[Observation]:
        """Watch all probes; what was learned of single calls holds for several ones, too."""
        seen = self._observe([*probes(self.domain), *self.more])
        if not seen:
            raise UnlearnableTemplate("The chat template refuses every conversation that it was tried with.")
        if self.domain.tools and not any(isinstance(hole, Tools) for hole in self.holes.known):
            raise UnlearnableTemplate("The chat template does not show tools.")
        if self.domain.tools and not any(m.tool_calls for o in seen for m in o.conversation.messages):
            raise UnlearnableTemplate("The chat template refuses tool calls as Ollama hands them over.")
        calls = [hole for hole in self.holes.known if isinstance(hole, Calls)]
        several = {(c.middle, c.indent): self.holes.char(c) for c in calls if c.separator is not None}
        single = [c for c in calls if c.separator is None and (c.middle, c.indent) in several]
        self.same = {ord(self.holes.char(c)): several[c.middle, c.indent] for c in single}
        return [observation.translate(self.same) for observation in seen]

    def _closings(self, seen: list[Observation]) -> dict[_Kind, str]:
        """What always follows a message of a kind.

        A conversation rendered without generation prompt ends where its last message does, which tells the end of
        a turn from the beginning of the next one.
        """
        following: dict[_Kind, list[str]] = {}
        cut = self._observe(prefixes([o.conversation for o in seen]), generation=False)
        for observation in [*seen, *cut]:
            texts = [*(step.before for step in observation.steps[1:]), observation.tail]
            for step, text in zip(observation.steps, texts, strict=False):
                following.setdefault(_kind(observation.conversation, step.index), []).append(text)
        return {kind: common_end(texts) for kind, texts in following.items()}

    def _samples(self, observation: Observation) -> list[Sample]:
        """The messages of a prompt with their features, and its end; messages that it leaves out have no text."""
        conversation, steps = observation.conversation, {step.index: step for step in observation.steps}
        lifted, samples, closing = self.observer.lifted(conversation), list[Sample](), ""
        for index, message in enumerate(conversation.messages):
            if index in lifted:
                continue
            text = ""
            if index in steps:
                opening = _after(closing, steps[index].before)
                closing = self.closings[_kind(conversation, index)]
                text = opening + steps[index].core + self._closed(message.role, closing)
            samples.append(Sample(message.role, self.features(conversation, index), text))
        end = self.features(conversation, len(conversation.messages))
        return [*samples, Sample("", end, _after(closing, observation.tail))]

    def _closed(self, role: str, closing: str) -> str:
        return self.close + closing if role == "assistant" and closing else closing

    def features(self, conversation: Conversation, index: int) -> Features:
        """The features of a message, or of the end of the conversation."""
        messages, lifted = conversation.messages, self.observer.lifted(conversation)
        before = [messages[i] for i in range(index) if i not in lifted]
        anywhere = self.system in ("last", "all")
        system = [m for m in (messages if anywhere else messages[:1]) if m.role == "system"]
        values: dict[str, str | bool] = {
            "first": not before,
            "prev": before[-1].role if before else "",
            "tools": bool(conversation.tools),
            "think": conversation.think is True,
            "nothink": conversation.think is False,
            "system": bool(system),
            "system_filled": any(m.content for m in system[-1:]),
        }
        if index == len(messages):
            return values
        own = {"calls": bool(messages[index].tool_calls), "filled": bool(messages[index].content)}
        users = [i for i, m in enumerate(messages) if m.role == "user"]
        place = {"first_user": users[:1] == [index], "last_user": users[-1:] == [index]}
        return {**values, **own, **place, "last": index == len(messages) - 1}

    def _exceptions(self, trees: Mapping[str, Tree], conversations: list[Conversation]) -> list[Sample]:
        """What empty contents make a template do, where that is not simply to show nothing in their place."""
        exceptions = []
        for observation in self._observe(emptied(conversations)):
            for sample in self._samples_around_gap(observation, trees):
                expected = self.holes.without(decide(trees[sample.role], sample.features), *_inserted(sample))
                if expected != sample.text:
                    exceptions.append(sample)
        return exceptions

    def _samples_around_gap(self, observation: Observation, trees: Mapping[str, Tree]) -> list[Sample]:
        """The samples of a prompt with one empty message, whose text is what its neighbours leave."""
        conversation = observation.conversation
        shown = [step.index for step in observation.steps]
        lifted = self.observer.lifted(conversation)
        empty = [i for i, m in enumerate(conversation.messages) if not m.content and not m.tool_calls]
        samples = self._samples(observation)
        missing = [i for i in empty if i not in shown and i not in lifted]
        if not missing:
            return samples
        position = missing[0] - sum(i < missing[0] for i in lifted)
        return self._split_gap(samples, position, conversation, missing[0], trees)

    def _split_gap(
        self,
        samples: list[Sample],
        position: int,
        conversation: Conversation,
        index: int,
        trees: Mapping[str, Tree],
    ) -> list[Sample]:
        """Share the text that stands before the next message between the empty message and that one."""
        gap, following = samples[position], samples[position + 1]
        expected = decide(trees[following.role], following.features)
        if any(not m.content for m in conversation.messages[index + 1 : index + 2]):
            expected = self.holes.without(expected, Content)
        extra = len(following.text) - len(expected)
        if extra < 0 or not following.text.endswith(expected):
            raise UnlearnableTemplate(f"An empty {gap.role} message changes what comes after it.")
        text = following.text[:extra]
        closing = self.closings.get(_kind(conversation, index), "")
        if gap.role == "assistant" and closing and text.endswith(closing):
            text = text[: len(text) - len(closing)] + self.close + closing
        samples[position] = Sample(gap.role, gap.features, text)
        samples[position + 1] = Sample(following.role, following.features, expected)
        return samples

    def _after_answer(self, seen: list[Observation]) -> tuple[str, str]:
        """The text from an answer to the next question, and the part of it that ends the answer."""
        for observation in seen:
            roles = [m.role for m in observation.conversation.messages]
            if roles == ["user", "assistant", "user"] and len(observation.steps) == 3:
                return observation.steps[2].before, self.closings.get(("assistant", False, False, False), "")
        return "", ""


def _pull_calls(samples: list[Sample], holes: Holes) -> list[Sample]:
    """Move what surrounds each single call into its hole: Ollama finds the tag of calls there."""
    for hole in [h for h in holes.known if isinstance(h, Calls)]:
        char, close = holes.char(hole), holes.char(Close())
        texts = [s.text for s in samples if char in s.text]
        if not texts:
            continue
        before = [text[: text.index(char)] for text in texts]
        after = [text[text.index(char) + 1 :].replace(close, "") for text in texts]
        between = hole.separator
        opening = common_suffix([*before, between] if between is not None else before)
        opening = opening if between is not None else opening[opening.rfind("\n") + 1 :]
        ending = "" if between is None else common_prefix([*after, between[: len(between) - len(opening)]])
        left = None if between is None else between[len(ending) : len(between) - len(opening)]
        pulled = holes.char(Calls(hole.middle, left, hole.indent, opening, ending))
        pattern = re.compile(f"{re.escape(opening)}{char}({close}?){re.escape(ending)}")
        samples = [replace(s, text=pattern.sub(rf"{pulled}\1", s.text)) for s in samples]
    return samples


def _after(closing: str, text: str) -> str:
    """What follows the end of a message, which does not depend on what follows."""
    if not text.startswith(closing):
        raise UnlearnableTemplate("An empty message changes how the one before it ends.")
    return text[len(closing) :]


def _kind(conversation: Conversation, index: int) -> _Kind:
    """What the end of a message may depend on: its role, and whether it makes calls, has tools and comes first."""
    message = conversation.messages[index]
    return message.role, bool(message.tool_calls), bool(conversation.tools), index == 0


def _inserted(sample: Sample) -> tuple[type[Content] | type[System], ...]:
    """The kinds of holes that are empty for a sample."""
    content: tuple[type[Content], ...] = () if sample.features.get("filled", True) else (Content,)
    system: tuple[type[System], ...] = () if sample.features["system_filled"] else (System,)
    return (*content, *system)
