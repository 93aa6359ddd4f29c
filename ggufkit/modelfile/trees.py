"""Decision trees: the text of a message by features that a Go template can see, over as few of them as will do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from ggufkit.modelfile.placeholders import UnlearnableTemplate, is_placeholder

Features = Mapping[str, "str | bool"]

FEATURES = (
    *("first", "calls", "tools", "nothink", "think", "prev"),
    *("first_user", "last_user", "last", "system", "filled", "system_filled"),
)
"""In the order of preference where several explain the same."""

_MOST_FEATURES = 5


@dataclass(frozen=True)
class Split:
    """A choice by a feature's value. `name` is one of FEATURES."""

    feature: str
    cases: tuple[tuple[str | bool, Tree], ...]


Tree = str | Split
"""Text with placeholders, or a choice between trees."""


@dataclass(frozen=True)
class Sample:
    """One message, or the end of a conversation under the role "": its features and its text."""

    role: str
    features: Features
    text: str


def decide(tree: Tree, features: Features) -> str:
    """The text that a tree leads to."""
    while isinstance(tree, Split):
        value = features.get(tree.feature, False)
        tree = next((t for v, t in tree.cases if v == value), tree.cases[-1][1])
    return tree


def fit(samples: Sequence[Sample]) -> dict[str, Tree]:
    """The tree of each role.

    Raises:
        UnlearnableTemplate: no few features explain the texts of a role.
    """
    unique = list({(s.role, s.text, *s.features.items()): s for s in samples}.values())
    return {
        role: _fit_role([s for s in unique if s.role == role]) for role in dict.fromkeys(s.role for s in unique)
    }


def _fit_role(samples: list[Sample]) -> Tree:
    """The tree over the fewest features that explains all samples of a role."""
    usable = [f for f in FEATURES if len({s.features.get(f) for s in samples}) > 1]
    for size in range(_MOST_FEATURES + 1):
        for chosen in combinations(usable, size):
            texts: dict[tuple[object, ...], str] = {}
            if all(texts.setdefault(_key(s, chosen), s.text) == s.text for s in samples):
                return _build(samples, chosen)
    role = samples[0].role or "end of a conversation"
    raise UnlearnableTemplate(f"What the chat template writes for the {role} follows no simple rule.")


def _key(sample: Sample, features: Sequence[str]) -> tuple[object, ...]:
    return tuple(sample.features.get(f) for f in features)


def _build(samples: list[Sample], features: Sequence[str]) -> Tree:
    """A tree over given features, the most telling one first."""
    if len({s.text for s in samples}) == 1:
        return samples[0].text

    def groups(feature: str) -> dict[str | bool, list[Sample]]:
        found: dict[str | bool, list[Sample]] = {}
        for sample in samples:
            found.setdefault(sample.features.get(feature, False), []).append(sample)
        return found

    varied = [f for f in features if len(groups(f)) > 1]
    best = min(varied, key=lambda f: sum(len({s.text for s in group}) for group in groups(f).values()))
    rest = [f for f in features if f != best]
    return Split(best, tuple((value, _build(group, rest)) for value, group in groups(best).items()))


def leaves(tree: Tree) -> list[str]:
    """Every text of a tree."""
    return [tree] if isinstance(tree, str) else [leaf for _, t in tree.cases for leaf in leaves(t)]


def common_end(texts: list[str]) -> str:
    """What all texts begin with, but not half of a token such as `<|`."""
    common = common_prefix(texts)
    if common in texts:
        return common
    return common[: max((i + 1 for i, c in enumerate(common) if is_boundary(c)), default=0)]


def common_prefix(texts: Sequence[str]) -> str:
    """The characters that all texts begin with."""
    low, high = min(texts), max(texts)
    return next((low[:i] for i, c in enumerate(low) if c != high[i]), low)


def common_suffix(texts: Sequence[str]) -> str:
    """The characters that all texts end with."""
    return common_prefix([text[::-1] for text in texts])[::-1]


def is_boundary(char: str) -> bool:
    """Whether a text may be cut behind a character without tearing a special token apart."""
    return char in ">]\n" or is_placeholder(char)
