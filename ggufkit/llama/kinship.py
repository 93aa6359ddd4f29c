"""Whether two GGUFs hold one model: by architecture, vocabulary and the shapes of tensors. Pure functions of headers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ggufkit.core.records import Tensor
from ggufkit.llama import mtp
from ggufkit.llama.gguf import GgufHeader

TOKENS, TOKEN_TYPES = "tokenizer.ggml.tokens", "tokenizer.ggml.token_type"
PER_TOKEN = ("token_embd.weight", "output.weight", "output.bias")
"""Tensors with a row for each token."""
_OPTIONAL = re.compile(
    r"output\.weight|(blk\.\d+\.)?rope_(freqs|factors_long|factors_short)\.weight|.+\.(input_)?scale"
)
"""Tensors that a publisher's file may have or lack: an output that is the embedding's copy, and what is computed else."""
_PADDING = re.compile(r"\[PAD-?\d+\]|<pad\d*>", re.IGNORECASE)
_NORMAL, _BYTE = 1, 6
"""llama.cpp's numbers of the tokens that text is split into."""
_SHOWN = 60


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of a file, in order, and llama.cpp's numbers of their kinds; none where it does not tell them."""

    kind: str
    tokens: Sequence[str]
    kinds: Sequence[int]

    def __len__(self) -> int:
        return len(self.tokens)

    def is_text(self, index: int) -> bool:
        """Whether text is split into a token; else it is special, unused or padding."""
        if index < len(self.kinds):
            return self.kinds[index] in (_NORMAL, _BYTE)
        return _PADDING.fullmatch(self.tokens[index]) is None


def vocabulary(header: GgufHeader) -> Vocabulary:
    """A file's vocabulary; empty for one without."""
    tokens, kinds = header.metadata.get(TOKENS), header.metadata.get(TOKEN_TYPES)
    return Vocabulary(
        str(header.metadata.get("tokenizer.ggml.model", "none")),
        [str(token) for token in tokens] if isinstance(tokens, list) else [],
        [kind if isinstance(kind, int) else _NORMAL for kind in kinds] if isinstance(kinds, list) else [],
    )


def strangeness(file: GgufHeader, base: GgufHeader) -> list[str]:
    """Why a file does not hold the model of a base: a reason each, of which the base is «the base»; none where it may.

    Padding of the vocabulary, special tokens of other names, and tensors that can be had from others are no reason.
    """
    if file.architecture != base.architecture:
        return [f"its architecture is {file.architecture}, that of the base {base.architecture}"]
    tokens = _other_tokens(vocabulary(file), vocabulary(base))
    return [*_other_heads(file, base), *_other_tensors(file, base), *tokens]


def _other_heads(file: GgufHeader, base: GgufHeader) -> list[str]:
    named = zip(_heads(file), _heads(base), ("attention heads", "heads of keys and values"), strict=True)
    return [f"it has {own} {what}, the base {theirs}" for own, theirs, what in named if own != theirs]


def _heads(header: GgufHeader) -> Sequence[int]:
    """How many there are, of which tensors' shapes do not tell."""
    n_heads = header.hparam("attention.head_count")
    return n_heads, header.hparam("attention.head_count_kv", n_heads)


def _other_tensors(file: GgufHeader, base: GgufHeader) -> list[str]:
    both = [(tensor, base.by_name[tensor.name]) for tensor in file.tensors if tensor.name in base.by_name]
    other = [(own, theirs) for own, theirs in both if _size(own) != _size(theirs)]
    shapes = (
        [f"{other[0][0].name} is {_shape(other[0][0])}, in the base {_shape(other[0][1])}{_more(other)}"]
        if other
        else []
    )
    return [*shapes, *_only(file, base, "it has {}, which the base lacks"), *_only(base, file, "it lacks {}")]


def _only(one: GgufHeader, other: GgufHeader, said: str) -> list[str]:
    beside = mtp.tensors(one)  # a publisher may leave out what only drafts
    missing = (t.name for t in one.tensors if t.name not in other.by_name and t.name not in beside)
    found = [name for name in missing if _OPTIONAL.fullmatch(name) is None]
    return [said.format(f"{found[0]}{_more(found)}")] if found else []


def _more(found: Sequence[object]) -> str:
    n = len(found) - 1
    return f" and {n} more tensor{'s' if n > 1 else ''}" if n else ""


def _size(tensor: Tensor) -> Sequence[int]:
    """The shape that decides; how many rows there are for tokens the vocabulary tells."""
    return tensor.shape[:-1] if tensor.name in PER_TOKEN else tensor.shape


def _shape(tensor: Tensor) -> str:
    return " × ".join(map(str, tensor.shape))


def _other_tokens(own: Vocabulary, base: Vocabulary) -> list[str]:
    if own.kind != base.kind:
        return [f"its tokenizer is {own.kind}, that of the base {base.kind}"]
    n_common = min(len(own), len(base))
    longer = own if len(own) > len(base) else base
    if any(map(longer.is_text, range(n_common, len(longer)))):
        return [f"it has {len(own):,} tokens, the base {len(base):,}"]
    wrong = (i for i in range(n_common) if own.tokens[i] != base.tokens[i] and (own.is_text(i) or base.is_text(i)))
    first = next(wrong, None)
    if first is None:
        return []
    return [
        f"its token {first:,} is {own.tokens[first][:_SHOWN]!r}, that of the base {base.tokens[first][:_SHOWN]!r}"
    ]
