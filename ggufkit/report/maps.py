"""Maps of types as `report.html` draws them: kinds of tensors by layers, a coloured square for each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ggufkit.recipes.type_map import Cell, Row, layers
from ggufkit.recipes.type_recipe import Choice
from ggufkit.report.recipes import Told
from ggufkit.report.type_colours import Swatch, swatches

_STEPS = (1, 2, 5, 10, 20, 50)
_MOST_TICKS = 8
_NAMED_UP_TO = 6
"""Layers up to which there is room for the types' names."""


@dataclass(frozen=True)
class Square:
    """What is drawn for a cell: the number of its swatch, the name of its type, and what is told of it when asked."""

    swatch: int
    text: str
    title: str


@dataclass(frozen=True)
class Line:
    """A kind of tensor: a square for each layer, None for one that has no such tensor; or one that is for no layer."""

    kind: str
    squares: tuple[Square | None, ...]
    whole: Square | None


@dataclass(frozen=True)
class TypeMap:
    """A map.

    Args:
        title: the file's label.
        file: its name.
        n_columns: how many layers there are.
        ticks: of the columns: the first one's number, how many are named together, and the layer's number.
        has_names: whether squares have room for their types' names.
    """

    title: str
    file: str
    n_columns: int
    ticks: tuple[tuple[int, int, int], ...]
    lines: tuple[Line, ...]
    has_names: bool


@dataclass(frozen=True)
class Shown:
    """All that is drawn of a file by a recipe: maps, and the same as text, by the kind of tensor."""

    told: Told
    maps: tuple[TypeMap, ...]
    texts: tuple[tuple[str, tuple[str, ...]], ...]


def labels(told: Sequence[Told]) -> frozenset[str]:
    """What cells of any map hold: "Q4_K", "Q4_K, Q6_K"."""
    rows = [row for one in told for row in (*one.rows, *one.preset_rows)]
    return frozenset(cell.label for row in rows for cell in row.cells.values())


def legend(told: Sequence[Told], types: Iterable[str] = ()) -> tuple[Swatch, ...]:
    """A swatch for each label of any map, and for types that are shown elsewhere."""
    return swatches(sorted({*labels(told), *types}))


def shown(told: Told, known: Sequence[Swatch]) -> Shown:
    """A recipe's map, and that of its preset."""
    columns = layers(told.rows)
    entries = [(told.entry, told.rows, told.choices)]
    entries += [(told.preset, told.preset_rows, {})] if told.preset is not None else []
    painter = _Painter(columns, {swatch.label: i for i, swatch in enumerate(known)})
    maps = [painter.draw(e.label, e.row.file, rows, choices) for e, rows, choices in entries]
    return Shown(told, tuple(maps), _texts([rows for _, rows, _ in entries]))


def _texts(files: Sequence[Sequence[Row]]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    runs = [{row.kind: row.runs.replace(" ×", "\N{NO-BREAK SPACE}×") for row in rows} for rows in files]
    return tuple((kind, tuple(run.get(kind, "") for run in runs)) for kind in runs[0])


@dataclass(frozen=True)
class _Painter:
    """What all maps of one recipe have in common: the layers, and the numbers of the swatches by label."""

    columns: Sequence[int]
    swatches: Mapping[str, int]

    def draw(self, title: str, file: str, rows: Sequence[Row], choices: Mapping[str, Choice]) -> TypeMap:
        lines = tuple(self._line(row, choices) for row in rows)
        n = len(self.columns)
        return TypeMap(title, file, max(n, 1), _ticks(self.columns), lines, n <= _NAMED_UP_TO)

    def _line(self, row: Row, choices: Mapping[str, Choice]) -> Line:
        squares = {layer: self._square(row.kind, layer, cell, choices) for layer, cell in row.cells.items()}
        whole = squares.pop(None, None)
        return Line(row.kind, tuple(squares.get(layer) for layer in self.columns) if squares else (), whole)

    def _square(self, kind: str, layer: int | None, cell: Cell, choices: Mapping[str, Choice]) -> Square:
        where = kind if layer is None else f"{kind}, layer {layer}"
        chosen = [choices[tensor] for tensor in cell.types if tensor in choices]
        return Square(self.swatches[cell.label], cell.label, f"{where}: {cell.label}{_reasons(chosen)}")


def _reasons(chosen: Sequence[Choice]) -> str:
    """What types of a cell are expected to lose, and why they were chosen."""
    losses = [choice.loss for choice in chosen if choice.loss is not None]
    expected = [f"{sum(losses):.2g} nats expected"] if losses else []
    said = [*expected, *dict.fromkeys(choice.why for choice in chosen if choice.why)]
    return f" ({'; '.join(said)})" if said else ""


def _ticks(columns: Sequence[int]) -> tuple[tuple[int, int, int], ...]:
    n = len(columns)
    step = next((step for step in _STEPS if n <= step * _MOST_TICKS), n)
    return tuple((i, min(step, n - i), columns[i]) for i in range(0, n, step or 1))
