"""Layers of a GGUF that predict further tokens (MTP, NextN): a model drafts with them what it then verifies. Pure functions.

A text never runs them: no importance matrix has data for them, no measurement of loss sees what becomes of them, and a
codebook type without data is refused, or spoils them without a word. So they have a type of their own, in which next to
nothing is lost: they are one layer of many, and each token that they guess right is a pass of the whole model less.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from ggufkit.llama import quants
from ggufkit.llama.gguf import GgufHeader

TYPE = "Q8_0"
"""The type of their matrices in every quantized file."""
_MARK = re.compile(r"blk\.(\d+)\.nextn\.")
_LAYER = re.compile(r"blk\.(\d+)\.")


def layers(header: GgufHeader) -> tuple[int, ...]:
    """The numbers of a file's layers that predict further tokens; none in most files."""
    return tuple(sorted({int(found[1]) for t in header.tensors if (found := _MARK.match(t.name))}))


def tensors(header: GgufHeader) -> frozenset[str]:
    """The names of all tensors of these layers."""
    own = set(layers(header))
    return frozenset(t.name for t in header.tensors if own and (at := _LAYER.match(t.name)) and int(at[1]) in own)


def n_run(header: GgufHeader) -> int:
    """How many layers a text goes through."""
    return header.hparam("block_count") - len(layers(header))


def drafts_alone(header: GgufHeader) -> bool:
    """Whether a file holds these layers alone, to draft beside the model that they belong to."""
    there = {int(at[1]) for t in header.tensors if (at := _LAYER.match(t.name))}
    return bool(there) and there == set(layers(header))


def type_in(header: GgufHeader, kind: str) -> str:
    """The type of these layers in a file of a type; "" where they have none of their own, or there are none."""
    return TYPE if layers(header) and not quants.is_float(kind) else ""


def types(header: GgufHeader, kind: str, pruned: Collection[int] = ()) -> tuple[tuple[str, str], ...]:
    """What llama-quantize is told of them, for a file of a type: a pattern and its type, after all that a user wishes.

    Args:
        pruned: layers that are left out, after which the others are counted anew.
    """
    left = [n - sum(gone < n for gone in pruned) for n in layers(header) if n not in pruned]
    if not left or quants.is_float(kind):
        return ()
    return ((rf"^blk\.({'|'.join(map(str, left))})\.", TYPE),)


def remark(header: GgufHeader) -> str:
    """What is said of them where files are planned; "" where there are none."""
    if not (own := layers(header)):
        return ""
    named = f"Layer {own[0]} predicts" if len(own) == 1 else f"Layers {own[0]} to {own[-1]} predict"
    return f"{named} further tokens, to draft with (MTP): {TYPE} in every quantized file, no importance matrix weighs it."
