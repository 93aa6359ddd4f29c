"""TABLE of BPE pre-tokenizers: what a tokenizer.json says of itself -> llama.cpp's name for the same splitting.

llama.cpp's converter recognizes a tokenizer by a hash of ids, which any retrained vocabulary changes. How text
is split before the merges is written in tokenizer.json, and is all that the name stands for. A row is here
only if llama.cpp splits exactly so (`src/llama-vocab.cpp`); the converted file is checked against the
original tokenizer in any case.
"""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ggufkit.core.errors import TokenizerError
from ggufkit.core.jsonfile import is_of, read_json

_LIMIT_BYTES = 128 << 20

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_CASED = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+{0}|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*{0}"
)
_CASED_REST = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def _cased(contractions: str) -> str:
    return _CASED.replace("{0}", contractions)


@dataclass(frozen=True)
class Family:
    """One family: llama.cpp's name and the splitting steps that it stands for."""

    name: str
    steps: tuple[str, ...]


_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

FAMILIES = (
    Family("gpt-2", ("bytelevel",)),
    Family("gpt-2", (f"split:{_GPT2}", "bytes")),
    Family("smollm", ("digits:individual", "bytelevel")),
    Family("qwen2", (rf"split:{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{_REST}", "bytes")),
    Family(
        "llama-bpe", (rf"split:{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{_REST}", "bytes")
    ),
    Family("tekken", (rf"split:{_cased('')}|\p{{N}}|{_CASED_REST}", "bytes")),
    Family("gpt-4o", (rf"split:{_cased(_CONTRACTIONS + '?')}|\p{{N}}{{1,3}}|{_CASED_REST}", "bytes")),
)

WORDPIECE = "WordPiece"
_NAME_OF_WORDPIECE = "bert-bge"
"""What the converter calls BERT's own; llama.cpp reads from the file whether it lowers case and strips accents."""

_SPECIAL_MERGES = frozenset({"llama-bpe", "tekken"})
"""Families for which llama.cpp takes a word that is a token as it stands, whatever the merges say."""


def identify(tokenizer_json: Path) -> str:
    """llama.cpp's name of the pre-tokenizer of a byte-level BPE, or of a WordPiece, which it splits in one way only.

    Raises:
        TokenizerError: tokenizer.json cannot be read, or its splitting is none of the table's; the closest are
            named.
    """
    if not tokenizer_json.is_file():
        raise _no_tokenizer_json(tokenizer_json)
    tokenizer = _read(tokenizer_json)
    if tokenizer.model.type == WORDPIECE:
        return _NAME_OF_WORDPIECE
    steps = describe(tokenizer)
    whole_words = bool(tokenizer.model.ignore_merges)
    for family in FAMILIES:
        if steps == family.steps and whole_words <= (family.name in _SPECIAL_MERGES):
            return family.name
    near = " or ".join(closest(steps))
    raise TokenizerError(
        f"llama.cpp does not know the tokenizer {tokenizer_json}, and its way of splitting text is none that "
        f"ggufkit can name for certain.",
        hint=f"The closest families are {near}: try --pre NAME; the ids are compared and a mismatch is an error.",
    )


def _no_tokenizer_json(file: Path) -> TokenizerError:
    message = f"{file.parent} has no {file.name}, which tells how text is split into tokens."
    here = file.parent.absolute()
    write = f"from transformers import AutoTokenizer as A; A.from_pretrained('{here}').save_pretrained('{here}')"
    return TokenizerError(
        message, hint=f'Take it from the base model, or let transformers write it: python -c "{write}"'
    )


def is_wordpiece(checkpoint: Path) -> bool:
    """Whether the tokenizer of a checkpoint is one as BERT's, which puts its own tokens around every text."""
    file = checkpoint / "tokenizer.json"
    return (
        file.is_file()
        and read_json(file, TokenizerFile, TokenizerError, limit=_LIMIT_BYTES).model.type == WORDPIECE
    )


def closest(steps: tuple[str, ...]) -> list[str]:
    """The names of the most similar families, most similar first."""
    wanted = " ".join(steps)
    ratio = {f.name: difflib.SequenceMatcher(None, wanted, " ".join(f.steps)).ratio() for f in reversed(FAMILIES)}
    return sorted(ratio, key=lambda name: -ratio[name])[:2]


@dataclass(frozen=True)
class Model:
    """A tokenizer's kind, whether a word that is a token is one before any merge, and what parts of words begin with."""

    type: str = ""
    ignore_merges: bool | None = None
    continuing_subword_prefix: str | None = None


@dataclass(frozen=True)
class AddedToken:
    """A token besides those of the model; a special one is found in text before that is split."""

    content: str
    special: bool | None = False


@dataclass(frozen=True)
class TokenizerFile:
    """What of a tokenizer.json tells how text is split."""

    model: Model = field(default_factory=Model)
    pre_tokenizer: dict[str, Any] | None = None
    added_tokens: list[AddedToken] | None = None


def read_tokenizer(path: Path) -> TokenizerFile:
    """Read a tokenizer.json; to be done before the library of tokenizers does, which some files end with its process.

    Raises:
        TokenizerError: it is damaged, or of a kind that llama.cpp does not read.
    """
    hint = "Download it again."
    tokenizer = read_json(path, TokenizerFile, TokenizerError, hint=hint, limit=_LIMIT_BYTES)
    prefix = tokenizer.model.continuing_subword_prefix
    if tokenizer.model.type == "BPE" and prefix:
        message = (
            f"{path} holds a BPE whose parts of words begin with {prefix[:20]!r}, which llama.cpp does not read."
        )
        raise TokenizerError(message, hint=hint)
    return tokenizer


def describe(tokenizer: TokenizerFile) -> tuple[str, ...]:
    """The splitting steps of a tokenizer.json, each as one line of text."""
    pre = tokenizer.pre_tokenizer or {}
    steps = pre.get("pretokenizers", []) if pre.get("type") == "Sequence" else [pre]
    return tuple(_step(step) for step in steps) if is_of(steps, list[dict[str, Any]]) else ("unknown",)


def _step(step: dict[str, Any]) -> str:
    kind = step.get("type", "none")
    if kind == "ByteLevel":
        prefix = "prefixed-" if step.get("add_prefix_space") else ""
        return prefix + ("bytelevel" if step.get("use_regex", True) else "bytes")
    if kind == "Digits":
        return "digits:individual" if step.get("individual_digits") else "digits:runs"
    pattern = step.get("pattern")
    isolated = step.get("behavior") == "Isolated" and not step.get("invert")
    if kind == "Split" and isinstance(pattern, dict) and isolated:
        return f"split:{pattern.get('Regex', pattern.get('String', ''))}"
    return json.dumps(step, sort_keys=True)


def _read(path: Path) -> TokenizerFile:
    tokenizer = read_tokenizer(path)
    if tokenizer.model.type not in ("BPE", WORDPIECE):
        raise TokenizerError(
            f"{path} holds no BPE and no WordPiece, but {tokenizer.model.type or 'nothing'}.",
            hint="llama.cpp's converter does not read such a tokenizer for this architecture.",
        )
    return tokenizer
