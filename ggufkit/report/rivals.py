"""Files of one model, whoever made them, beside each other: what each loses, and how its types differ from the first's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ggufkit.core.records import Json, ResultRow
from ggufkit.llama.gguf import read_header
from ggufkit.measure.paired import Contrast
from ggufkit.recipes.difference import counts, differences
from ggufkit.recipes.type_map import matrices, type_map
from ggufkit.report.data import Entry, load_entries
from ggufkit.report.losses import of_divergence
from ggufkit.report.tasks import TaskTable, tables_of


@dataclass(frozen=True)
class Rival:
    """One of the files.

    Args:
        kinds: the types of each kind of tensor: ("attn_v", "Q6_K ×16, Q4_K ×14").
        differs: how they are not those of the first file, a phrase each; none of the first itself.
        delta: its mean KL divergence above the first's, in nats, with the error of the difference: of the same tokens'
            where what each lost was kept of both. None where one of both was not measured.
    """

    entry: Entry
    kinds: Sequence[tuple[str, str]]
    differs: Sequence[str] = ()
    delta: Contrast | None = None

    @property
    def row(self) -> ResultRow:
        """What was measured."""
        return self.entry.row

    def as_json(self) -> dict[str, Json]:
        """Its row, and what is told besides."""
        found = self.delta
        delta, error, paired = (None, None, None) if found is None else (found.value, found.error, found.is_paired)
        told: dict[str, Json] = {"kld_delta": delta, "kld_delta_stderr": error, "kld_delta_paired": paired}
        told["differs"] = list(self.differs)
        return {**self.row.columns(), **told, "types_of_kinds": dict(self.kinds)}


@dataclass(frozen=True)
class Rivals:
    """A base, and files to compare with it, in the order in which they were named; the first is what others differ from."""

    base: Rival
    files: Sequence[Rival] = field(default=())

    @property
    def all(self) -> list[Rival]:
        """The base, then the files."""
        return [self.base, *self.files]

    @property
    def tasks(self) -> Sequence[TaskTable]:
        """What they scored in tasks, as far as that was measured."""
        return tables_of([rival.row for rival in self.all])


def side_by_side(rows: Sequence[ResultRow], root: Path, names: Sequence[str]) -> Rivals:
    """The files of a result directory that are called so, the base first."""
    entries = {entry.row.file: entry for entry in load_entries(rows, root)}
    types = {name: matrices(read_header(root / name).tensors) for name in names}
    base, first, *_ = names
    found = [
        Rival(
            entries[name],
            [(row.kind, counts(row)) for row in type_map(types[name])],
            tuple(differences(types[name], types[first])) if name not in (base, first) else (),
            _delta(entries[name], entries[first]) if name not in (base, first) else None,
        )
        for name in names
    ]
    return Rivals(found[0], found[1:])


def _delta(entry: Entry, first: Entry) -> Contrast | None:
    a, b = (of_divergence(one.row, one.scores) for one in (entry, first))
    return None if a is None or b is None else a.less(b)
