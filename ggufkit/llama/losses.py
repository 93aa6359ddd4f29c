"""What llama.cpp's converter says that it leaves out, and goes on. Pure functions of text.

Sources: `conversion/base.py`, `conversion/t5.py`, `conversion/youtuvl.py`, `gguf-py/gguf/vocab.py`.
"""

from __future__ import annotations

import re
from collections.abc import Collection

_LOST = (
    (re.compile(r"ignore tokens? (?P<it>(?:from )?\d+): id is out of range"), "the tokens {} (no rows for them)"),
    (
        re.compile(r"Special token type (?P<it>\w+), id \d+ out of range"),
        "the special tokens {} (no rows for them)",
    ),
    (re.compile(r"Cannot map tensor: (?P<it>\S+)"), "the tensors {}"),
    (re.compile(r"Unknown RoPE type: (?P<it>(?!default\b|mrope\b|proportional\b)\S+)"), "the rope type {}"),
    (re.compile(r"(?P<it>\S+): Line \d+: Entry malformed, ignoring"), "merges of {}"),
    (re.compile(r"Bad type for (?P<it>chat_template) field"), "the {}"),
)
"""The converter calls rope types unknown, too, that are none, or that a model's own class handles."""

_IGNORED = re.compile(r"ignore token (?P<id>\d{1,12}): id is out of range")
_SHOWN = 4


def losses(text: str, unneeded: Collection[int] = ()) -> list[str]:
    """What was left out, each kind in a few words: "the tokens 32000, 32001 (no rows for them)".

    Args:
        unneeded: ids of tokens that the model does without.
    """
    said = _IGNORED.sub(lambda m: "" if int(m["id"]) in unneeded else m[0], text)
    found = [(words, list(dict.fromkeys(m["it"] for m in pattern.finditer(said)))) for pattern, words in _LOST]
    return [words.format(_listed(names)) for words, names in found if names]


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
