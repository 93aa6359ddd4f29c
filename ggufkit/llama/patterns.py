"""Patterns of llama-quantize's `--tensor-type`: regular expressions that are searched for in names of tensors (pure).

The tool writes a pattern in lower case, and splits it from its type at the first "=". The first that is found counts.
Source: `parse_tensor_type` in `tools/quantize/quantize.cpp`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from ggufkit.core.errors import InputError, UnknownType
from ggufkit.core.jsonfile import read_within
from ggufkit.llama import quants

HINT = "A part of a tensor's name is a pattern: attn_v, or blk\\.[0-3]\\.ffn_down."
FORM = "PATTERN=TYPE, e.g. attn_v=q8_0"
LIMIT_BYTES = 1 << 20
"""Of a list: room for each tensor of any model."""
_OTHERWISE = re.compile(r"\\[A-Z]|\(\?(?![:!])|\[\^?\]|\[[^\]]*?(?:\[|--|&&|~~|\|\|)|[*+?}]\+")
"""What is another expression in lower case, or one in Python and another in C++, or will be."""
Pair = tuple[str, str]
"""A pattern and a type of tensors: ("attn_v", "Q8_0")."""


def exactly(types: Mapping[str, str]) -> tuple[Pair, ...]:
    """Patterns that give each tensor its type: each is found in one name alone.

    What the tool would change in a name matches anything.
    """
    return tuple((f"^{''.join(map(_literal, name))}$", kind) for name, kind in types.items())


def _literal(character: str) -> str:
    if character == ".":
        return r"\."
    plain = character.isascii() and (character.islower() or character.isdecimal() or character in "_-")
    return character if plain else "." * len(character.encode())


def pair(word: str, what: str) -> Pair:
    """A pattern and its type from `attn_v=q8_0`.

    Args:
        what: where it stands, as messages call it.

    Raises:
        InputError: it is none, the type is unknown, or the pattern is no regular expression.
    """
    pattern, equals, kind = word.partition("=")
    if not pattern or not equals or not kind:
        hint = f"Write {FORM}; a pattern has no '=' in it."
        raise InputError(f"{what}: {word!r} gives no tensor a type.", hint=hint)
    require_pattern(pattern, what)
    try:
        return pattern, quants.tensor_type(kind)
    except UnknownType as error:
        raise InputError(f"{what}: {word!r}: {error.message}", hint=error.hint) from None


def pairs(text: str, what: str) -> tuple[Pair, ...]:
    """The pairs of llama.cpp's own list, between white space. Arguments and errors are those of `pair`."""
    return tuple(pair(word, what) for word in text.split())


def read_pairs(file: Path) -> tuple[Pair, ...]:
    """The pairs of a file that holds llama.cpp's own list. Errors are those of `pair`, and of a file not read."""
    text = read_within(file, LIMIT_BYTES, hint="Give the file that llama-quantize has for --tensor-type-file.")
    found = pairs(text.decode("utf-8", "replace"), str(file))
    if not found:
        raise InputError(f"{file} is empty.", hint=f"Write {FORM} for each pattern.")
    return found


def require_pattern(pattern: str, what: str) -> None:
    """Raise InputError where a pattern is no regular expression, or means something else to llama-quantize."""
    changed = _OTHERWISE.search(pattern)
    if changed is not None:
        message = f"{what}: {changed[0]!r} in {pattern!r} means something else to llama-quantize, or nothing."
        raise InputError(message, hint="It knows the expressions of C++, in lower case: write [^0-9] for \\D.")
    try:
        re.compile(pattern.lower())
    except (re.error, OverflowError, RecursionError) as error:
        message = f"{what}: {pattern!r} is no regular expression: {error}."
        raise InputError(message, hint=HINT) from error


def is_found(pattern: str, name: str) -> bool:
    """Whether a pattern is found in the name of a tensor."""
    return re.search(pattern.lower(), name) is not None
