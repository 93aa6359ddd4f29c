"""The types of a file's tensors as a map: a row for each kind of tensor, a column for each layer. Pure functions."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ggufkit.core.records import Tensor

_ORDER = ("attn_q", "attn_k", "attn_v", "attn_output", "attn", "ffn_gate", "ffn_up", "ffn_down")
"""Beginnings of kinds in the order in which a layer computes with them; others follow as the file has them."""
_EXPERTS = re.compile(r"exps?\b")
_NUMBER = re.compile(r"[0-9]{1,6}")
_COMMON = ("blk", "weight")
_EMBEDDING, _OUTPUT = "token_embd", "output"


@dataclass(frozen=True)
class Cell:
    """The tensors of one kind in one layer: one, but for models that keep each expert by itself.

    Args:
        types: by the tensor's name.
    """

    types: Mapping[str, str]

    @property
    def label(self) -> str:
        """Its type, or its types: "Q4_K", "Q4_K, Q6_K"."""
        return ", ".join(dict.fromkeys(self.types.values()))


@dataclass(frozen=True)
class Row:
    """One kind of tensor.

    Args:
        kind: its name without the layer: "attn_q", "ffn_down_exps", "token_embd".
        cells: by layer, in their order; None for what belongs to no layer.
    """

    kind: str
    cells: Mapping[int | None, Cell]

    @property
    def runs(self) -> str:
        """The types of all layers that have such a tensor, run-length coded: "Q6_K ×8, Q5_K ×16"."""
        counted = (
            (label, len(list(run))) for label, run in itertools.groupby(c.label for c in self.cells.values())
        )
        return ", ".join(label if count == 1 else f"{label} ×{count}" for label, count in counted)


def matrices(tensors: Iterable[Tensor]) -> dict[str, str]:
    """The types of those tensors of a file that types are chosen for, by name: matrices, no norms and no biases."""
    return {t.name: t.type for t in tensors if len(t.shape) > 1 and not t.name.endswith(".bias")}


def type_map(types: Mapping[str, str]) -> tuple[Row, ...]:
    """The map of tensors' types: rows from the attention over the experts to the embedding and the output.

    Args:
        types: by the tensor's name, as `TypeRecipe.types` or `matrices` give them.
    """
    rows: dict[str, dict[int | None, dict[str, str]]] = {}
    for name, kind_of_type in types.items():
        kind, layer = _place(name)
        rows.setdefault(kind, {}).setdefault(layer, {})[name] = kind_of_type
    found = [Row(kind, {layer: Cell(cells[layer]) for layer in sorted(cells, key=_first_none)})
             for kind, cells in rows.items()]  # fmt: skip
    return tuple(sorted(found, key=_rank))


def layers(rows: Iterable[Row]) -> Sequence[int]:
    """The layers that a map has columns for."""
    return sorted({layer for row in rows for layer in row.cells if layer is not None})


def lines(types: Mapping[str, str]) -> list[tuple[str, str]]:
    """The map as text: of each kind its name and the types of its layers, ("attn_v", "Q6_K ×8, Q5_K ×16")."""
    return [(row.kind, row.runs) for row in type_map(types)]


def _place(name: str) -> tuple[str, int | None]:
    """Kind and layer by a tensor's name, whose first number is the layer and whose second one an expert."""
    parts = name.split(".")
    numbers = [part for part in parts if _NUMBER.fullmatch(part)]
    words = [part for part in parts if part not in (*numbers, *_COMMON)]
    return ".".join(words) or name, int(numbers[0]) if numbers else None


def _first_none(layer: int | None) -> int:
    return -1 if layer is None else layer


def _rank(row: Row) -> tuple[bool, bool, bool, bool, int]:
    """Layers before what belongs to none, experts after the rest of a layer, the output last."""
    begins = [i for i, start in enumerate(_ORDER) if row.kind.rpartition(".")[2].startswith(start)]
    whole = None in row.cells
    return (
        whole,
        row.kind == _OUTPUT,
        row.kind != _EMBEDDING and whole,
        _EXPERTS.search(row.kind) is not None,
        begins[0] if begins else len(_ORDER),
    )
