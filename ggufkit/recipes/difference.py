"""How the types of two files' tensors differ, in words: «attn_v Q6_K against Q4_K in layers 0 to 7». Pure functions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from ggufkit.recipes.type_map import Row, type_map

Pair = tuple[str, str]
"""A type, and what the other file has in its place; "" where one has no such tensor."""
_Where = tuple[int | None, ...]


def differences(types: Mapping[str, str], others: Mapping[str, str]) -> list[str]:
    """What sets one file's types apart from another's, a phrase for each; none where all agree.

    Args:
        types: of the file that is told of, by the tensor's name, as `type_map.matrices` gives them.
        others: of the file that it is told against.
    """
    own, theirs = _by_kind(types), _by_kind(others)
    found: dict[tuple[Pair, _Where, bool], list[str]] = {}
    for kind in dict.fromkeys([*own, *theirs]):
        cells = _pairs(own.get(kind), theirs.get(kind))
        for pair in dict.fromkeys(cells.values()):
            where = tuple(layer for layer, other in cells.items() if other == pair)
            if pair[0] != pair[1]:
                found.setdefault((pair, where, len(where) == len(cells)), []).append(kind)
    return [_phrase(kinds, *what) for what, kinds in found.items()]


def counts(row: Row) -> str:
    """The types of a kind of tensor by how many layers have them: "Q4_K ×14, Q6_K ×16"."""
    counted = Counter(cell.label for cell in row.cells.values()).most_common()
    return ", ".join(label if count == 1 else f"{label} ×{count}" for label, count in counted)


def ranges(numbers: Iterable[int]) -> str:
    """Whole numbers in words, those that follow each other as a range: "0 to 7, 9 and 12"."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    parts = [part for run in runs for part in ([f"{run[0]} to {run[-1]}"] if len(run) > 2 else map(str, run))]
    return _listed(parts)


def _by_kind(types: Mapping[str, str]) -> dict[str, Row]:
    return {row.kind: row for row in type_map(types)}


def _pairs(own: Row | None, theirs: Row | None) -> dict[int | None, Pair]:
    """The types in both files by layer, in the order of the layers."""
    cells = [
        {} if row is None else {layer: cell.label for layer, cell in row.cells.items()} for row in (own, theirs)
    ]
    ordered = sorted({*cells[0], *cells[1]}, key=lambda layer: -1 if layer is None else layer)
    return {layer: (cells[0].get(layer, ""), cells[1].get(layer, "")) for layer in ordered}


def _phrase(kinds: Sequence[str], pair: Pair, where: _Where, is_everywhere: bool) -> str:
    what, numbers = f"{_listed(kinds)} {_against(*pair)}", [layer for layer in where if layer is not None]
    if not numbers:
        return what
    place = "all layers" if is_everywhere else f"layer{'s' if len(numbers) > 1 else ''} {ranges(numbers)}"
    return f"{what} in {place}"


def _against(own: str, theirs: str) -> str:
    if not own:
        return f"none, {theirs} in the other"
    return f"{own} against {theirs}" if theirs else f"{own}, which the other lacks"


def _listed(parts: Sequence[str]) -> str:
    *before, last = parts
    return f"{', '.join(before)} and {last}" if before else last
