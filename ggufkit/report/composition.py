"""What files really hold: the share of their bytes by tensor type. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ggufkit.report.data import Entry


@dataclass(frozen=True)
class Part:
    """What tensors of one type take of a file: as a fraction, and in bytes."""

    type: str
    share: float
    n_bytes: int


@dataclass(frozen=True)
class Held:
    """What files of one composition hold.

    Args:
        title: the type that they have in common, else their labels.
        labels: of the files.
        parts: the most bits per weight first.
    """

    title: str
    labels: tuple[str, ...]
    parts: tuple[Part, ...]


def held(entries: Sequence[Entry]) -> tuple[Held, ...]:
    """What is in each file, from large to small; files that hold the same stand together."""
    groups: dict[tuple[tuple[str, int], ...], list[Entry]] = {}
    for entry in entries:
        groups.setdefault(tuple(entry.composition.items()), []).append(entry)
    largest = sorted(groups.items(), key=lambda item: -sum(n_bytes for _, n_bytes in item[0]))
    return tuple(_held(dict(composition), group) for composition, group in largest if composition)


def _held(composition: dict[str, int], group: Sequence[Entry]) -> Held:
    total = sum(composition.values()) or 1
    labels = tuple(dict.fromkeys(e.label for e in group))
    types = dict.fromkeys(e.row.type for e in group)
    title = group[0].row.type if len(types) == 1 else ", ".join(labels)
    parts = [Part(kind, n_bytes / total, n_bytes) for kind, n_bytes in composition.items()]
    return Held(title, labels, tuple(parts))
