"""Observed prompts as samples to learn from: the text of each message, and the features that may decide it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ggufkit.modelfile.conversation import Conversation
from ggufkit.modelfile.observe import Observation, Observer
from ggufkit.modelfile.placeholders import Close, Content, System, UnlearnableTemplate
from ggufkit.modelfile.questions import emptied
from ggufkit.modelfile.trees import Features, Sample, Tree, decide

Kind = tuple[str, bool, bool, bool]
"""What the end of a message may depend on: its role, and whether it makes calls, has tools and comes first."""


def kind(conversation: Conversation, index: int) -> Kind:
    """The kind of a message."""
    message = conversation.messages[index]
    return message.role, bool(message.tool_calls), bool(conversation.tools), index == 0


@dataclass(frozen=True)
class Sampler:
    """Makes samples of observations.

    Args:
        closings: the text that always follows a message of a kind.
    """

    observer: Observer
    closings: Mapping[Kind, str]

    def samples(self, observation: Observation) -> list[Sample]:
        """The messages of a prompt with their features, and its end; messages that it leaves out have no text."""
        conversation, steps = observation.conversation, {step.index: step for step in observation.steps}
        lifted, samples, closing = self.observer.lifted(conversation), list[Sample](), ""
        for index, message in enumerate(conversation.messages):
            if index in lifted:
                continue
            text = ""
            if index in steps:
                opening = _after(closing, steps[index].before)
                closing = self.closings[kind(conversation, index)]
                text = opening + steps[index].core + self._closed(message.role, closing)
            samples.append(Sample(message.role, self._features(conversation, index), text))
        end = self._features(conversation, len(conversation.messages))
        return [*samples, Sample("", end, _after(closing, observation.tail))]

    def _closed(self, role: str, closing: str) -> str:
        return self._close + closing if role == "assistant" and closing else closing

    @property
    def _close(self) -> str:
        return self.observer.placeholders.char(Close())

    def _features(self, conversation: Conversation, index: int) -> Features:
        """The features of a message, or of the end of the conversation."""
        messages, lifted = conversation.messages, self.observer.lifted(conversation)
        before = [messages[i] for i in range(index) if i not in lifted]
        anywhere = self.observer.system in ("last", "all")
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

    def exceptions(self, trees: Mapping[str, Tree], conversations: Sequence[Conversation]) -> Iterable[Sample]:
        """What empty contents make a template do, where that is not simply to show nothing in their place."""
        placeholders = self.observer.placeholders
        for observation in self.observer.observe_all(emptied(conversations)):
            for sample in self._samples_around_gap(observation, trees):
                expected = placeholders.without(decide(trees[sample.role], sample.features), *_inserted(sample))
                if expected != sample.text:
                    yield sample

    def _samples_around_gap(self, observation: Observation, trees: Mapping[str, Tree]) -> list[Sample]:
        """The samples of a prompt with one empty message, whose text is what its neighbours leave."""
        conversation = observation.conversation
        shown = [step.index for step in observation.steps]
        lifted = self.observer.lifted(conversation)
        empty = [i for i, m in enumerate(conversation.messages) if not m.content and not m.tool_calls]
        samples = self.samples(observation)
        missing = [i for i in empty if i not in shown and i not in lifted]
        if not missing:
            return samples
        position = missing[0] - sum(i < missing[0] for i in lifted)
        gap = self._split_gap(samples[position], samples[position + 1], conversation, missing[0], trees)
        return [*samples[:position], *gap, *samples[position + 2 :]]

    def _split_gap(
        self, gap: Sample, following: Sample, conversation: Conversation, index: int, trees: Mapping[str, Tree]
    ) -> tuple[Sample, Sample]:
        """Share the text that stands before the next message between the empty message and that one."""
        expected = decide(trees[following.role], following.features)
        if any(not m.content for m in conversation.messages[index + 1 : index + 2]):
            expected = self.observer.placeholders.without(expected, Content)
        extra = len(following.text) - len(expected)
        if extra < 0 or not following.text.endswith(expected):
            raise UnlearnableTemplate(f"An empty {gap.role} message changes what comes after it.")
        text = following.text[:extra]
        closing = self.closings.get(kind(conversation, index), "")
        if gap.role == "assistant" and closing and text.endswith(closing):
            text = text[: len(text) - len(closing)] + self._close + closing
        return Sample(gap.role, gap.features, text), Sample(following.role, following.features, expected)


def _after(closing: str, text: str) -> str:
    """What follows the end of a message, which does not depend on what follows."""
    if not text.startswith(closing):
        raise UnlearnableTemplate("An empty message changes how the one before it ends.")
    return text[len(closing) :]


def _inserted(sample: Sample) -> tuple[type[Content] | type[System], ...]:
    """The kinds of placeholders that are empty for a sample."""
    content: tuple[type[Content], ...] = () if sample.features.get("filled", True) else (Content,)
    system: tuple[type[System], ...] = () if sample.features["system_filled"] else (System,)
    return (*content, *system)
