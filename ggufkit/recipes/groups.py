"""Which tensors are measured together: each alone in small models, kind × depth in large ones."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from ggufkit.core.records import Tensor

_LAYER = re.compile(r"blk\.(?P<layer>\d+)\.(?P<kind>.+)\.weight$")


@dataclass(frozen=True)
class Group:
    """Tensors that are made coarse at once to see what that costs; `label` says which: "attn_v, layers 0 to 4"."""

    label: str
    tensors: tuple[str, ...]


def kind_of(name: str) -> str:
    """What a tensor is for: "attn_v" of "blk.3.attn_v.weight", "token_embd"."""
    found = _LAYER.match(name)
    return found["kind"] if found else name.removesuffix(".weight")


def layer_of(name: str) -> int | None:
    """The layer that a tensor belongs to, None for one that belongs to none."""
    found = _LAYER.match(name)
    return int(found["layer"]) if found else None


def group(tensors: Sequence[Tensor], most: int) -> tuple[Group, ...]:
    """At most so many groups, as fine as that allows: slices of depth for each kind of a layer's tensors.

    Experts of a layer are one tensor. A kind that is in few layers has no more slices than layers; what belongs to no
    layer stands alone.
    """
    if len(tensors) <= most:
        return tuple(Group(tensor.name, (tensor.name,)) for tensor in tensors)
    alone = [tensor.name for tensor in tensors if layer_of(tensor.name) is None]
    kinds: dict[str, list[str]] = defaultdict(list)
    for tensor in tensors:
        if tensor.name not in alone:
            kinds[kind_of(tensor.name)].append(tensor.name)
    groups = [Group(name, (name,)) for name in alone]
    for kind, n_slices in _slices(kinds, most - len(alone)).items():
        groups += _sliced(kind, kinds[kind], n_slices)
    return tuple(groups)


def _slices(kinds: dict[str, list[str]], most: int) -> dict[str, int]:
    """How many slices each kind gets: one at least, then one more for whose slices are the longest."""
    slices = dict.fromkeys(kinds, 1)
    while sum(slices.values()) < most:
        longest = max(kinds, key=lambda kind: len(kinds[kind]) / slices[kind])
        if slices[longest] == len(kinds[longest]):
            break
        slices[longest] += 1
    return slices


def _sliced(kind: str, names: Sequence[str], n_slices: int) -> list[Group]:
    ordered = sorted(names, key=lambda name: layer_of(name) or 0)
    edges = [round(i * len(ordered) / n_slices) for i in range(n_slices + 1)]
    return [_slice(kind, ordered[a:b]) for a, b in pairwise(edges)]


def _slice(kind: str, names: Sequence[str]) -> Group:
    first, last = layer_of(names[0]), layer_of(names[-1])
    where = f"layer {first}" if first == last else f"layers {first} to {last}"
    return Group(f"{kind}, {where}", tuple(names))
