"""YAML that somebody else wrote: read within limits, and in the shape that it should have. As in JSON, nothing refers to
anything else in it: no anchors, so that a few lines cannot stand for millions of values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypeVar

from ggufkit.core.errors import InputError

if TYPE_CHECKING:
    import yaml

T = TypeVar("T")

LIMIT_BYTES = 1 << 20
"""Room for thousands of tensors and what is said of each."""
_MOST_DEEP = 20
_MOST_EVENTS = 120_000


def parse_yaml(data: bytes, what: str, *, hint: str) -> dict[Any, Any]:
    """The mapping that a YAML document is.

    Args:
        what: what is read, as messages call it.
        hint: what to do about a document that is damaged.

    Raises:
        InputError: it is no YAML, no single document in UTF-8, uses anchors, names something twice, is too deep or too
            long, or no mapping; `what` is named.
    """
    import yaml

    try:
        text = data.decode("utf-8")
        _require_plain(text, what, hint)
        value = _load(text, what, hint)
    except (yaml.YAMLError, ValueError, OverflowError, TypeError, AttributeError) as failure:
        reason = " ".join(str(failure).split()).rstrip(".")
        raise InputError(f"{what} is not valid YAML: {reason[:300]}.", hint=hint) from failure
    if not isinstance(value, dict):
        raise InputError(f"{what} is not as expected: it is no mapping of names to values.", hint=hint)
    return value


def shaped(value: dict[Any, Any], shape: type[T], what: str, *, hint: str) -> T:
    """What was read, as a dataclass. Raises InputError where it has another shape, or keys that `shape` lacks."""
    import msgspec

    require_known(value, shape, what, hint=hint)
    try:
        return msgspec.convert(value, type=shape)
    except msgspec.ValidationError as failure:
        raise InputError(f"{what} is not as expected: {failure}.", hint=hint) from failure


def require_known(value: Mapping[Any, Any], shape: type[Any], what: str, *, hint: str) -> None:
    """Raise InputError where a mapping has a key that a dataclass lacks: one misspelt would go unheeded."""
    known = [field.name for field in fields(shape)]
    if unknown := [key for key in value if key not in known]:
        message = (
            f"{what} is not as expected: it has {str(unknown[0])[:80]!r}, which is none of {', '.join(known)}."
        )
        raise InputError(message, hint=hint)


def loader_class() -> type[yaml.SafeLoader | yaml.CSafeLoader]:
    """The parser in C where PyYAML has it: it is ten times as fast."""
    import yaml

    return getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def _require_plain(text: str, what: str, hint: str) -> None:
    """Look at what it is made of, event by event, before anything is built from it."""
    import yaml

    deep = 0
    for n_events, event in enumerate(yaml.parse(text, Loader=loader_class())):
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise InputError(f"{what} uses anchors, which such a file may not.", hint=hint)
        if isinstance(event, yaml.CollectionStartEvent):
            deep += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            deep -= 1
        if deep > _MOST_DEEP or n_events > _MOST_EVENTS:
            limit = (
                f"nested more than {_MOST_DEEP} deep" if deep > _MOST_DEEP else "longer than such a file may be"
            )
            raise InputError(f"{what} is {limit}.", hint=hint)


def _load(text: str, what: str, hint: str) -> Any:
    loader = loader_class()(text)
    try:
        node = loader.get_single_node()
        if node is None:
            raise InputError(f"{what} is empty.", hint=hint)
        if (twice := next(_twice(node), None)) is not None:
            raise InputError(f"{what} names {twice} twice.", hint=hint)
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _twice(node: yaml.Node) -> Iterator[str]:
    """Keys that a mapping has twice, of which the last would count."""
    import yaml

    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _twice(item)
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            name = str(key.value)
            if name in seen:
                yield name
            seen.add(name)
            yield from _twice(value)
