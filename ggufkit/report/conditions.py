"""Under which conditions files were measured, and `measurements.csv`: a row for each file, condition and metric."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ggufkit.core import escape
from ggufkit.core.errors import InputError
from ggufkit.core.jsonfile import read_json
from ggufkit.core.manifest import write_atomically
from ggufkit.core.part_names import stem_of
from ggufkit.core.records import F16, Conditions, Json, Measurement, ResultRow
from ggufkit.llama import kv_cache
from ggufkit.measure import checkpoints, divergence, token_scores
from ggufkit.measure.measurements import against_own_bases
from ggufkit.measure.paired import Scores
from ggufkit.measure.tasks import scores
from ggufkit.report.results import checkpoint_measurements, further_places, measured_in, readable
from ggufkit.steps.step import Result, Workspace

_TEXTS = "texts.json"
_OF_FILE = ("name", "variant", "type", "file")
_OF_CONDITIONS = ("corpus", "corpus_sha256", "n_ctx", "n_chunks", "kv_type", "depth")
_VALUE = ("metric", "value", "stderr", "unit")
_WHERE = ("backend", "device", "ngl", "llama_cpp_commit", "base_sha256")
COLUMNS = (*_OF_FILE, *_OF_CONDITIONS, *_VALUE, *_WHERE, "sha256")


@dataclass(frozen=True)
class Measured:
    """A file and what was measured of it under one set of conditions; `is_further` where the table does not have it.

    `scores_file` holds what each token gave, if that was kept.
    """

    row: ResultRow
    measurements: tuple[Measurement, ...]
    is_further: bool = False
    scores_file: Path | None = None

    @property
    def scores(self) -> Scores | None:
        """What each token gave, where that was kept."""
        return (
            None if self.scores_file is None else token_scores.of_measurements(self.measurements, self.scores_file)
        )

    @property
    def conditions(self) -> Conditions:
        """Of the first measurement."""
        return self.measurements[0].conditions

    @property
    def kv_type(self) -> str:
        """The type of the KV cache."""
        return self.conditions.kv_type or F16

    def value(self, metric: str) -> tuple[float, float | None] | None:
        """A metric and its standard error; None where it was not measured."""
        return next(((m.value, m.stderr) for m in self.measurements if m.metric == metric), None)


def note_texts(done: Iterable[Result], workspace: Workspace) -> None:
    """Note which text each name stands for, by what a build measured or found fresh: an edited text is another one, and
    what was measured on it before it was edited is told no more."""
    now: dict[str, set[str]] = {}
    for result in done:
        for measured in readable(result.path):
            if measured.conditions.corpus and measured.conditions.corpus_sha256:
                now.setdefault(measured.conditions.corpus, set()).add(measured.conditions.corpus_sha256)
    noted = _noted(workspace)
    known = {**noted, **{name: sorted(digests) for name, digests in now.items()}}
    if known != noted:
        write_atomically(workspace.private / _TEXTS, json.dumps(known, indent=1, sort_keys=True) + "\n")


def _noted(workspace: Workspace) -> dict[str, list[str]]:
    try:
        return read_json(workspace.private / _TEXTS, dict[str, list[str]], hint="Build again.")
    except InputError:
        return {}


def _is_of_now(measured: Measured, noted: Mapping[str, Sequence[str]]) -> bool:
    where = measured.conditions
    return not measured.is_further or where.corpus_sha256 in noted.get(where.corpus or "", [where.corpus_sha256])


def collect(rows: Sequence[ResultRow], root: Path) -> list[Measured]:
    """All that was measured of the files of a result directory: first what the table has, then the rest."""
    workspace = Workspace(root)
    table, further = workspace.measurements, further_places(workspace)
    places = [*((row, table) for row in rows), *((row, place) for row in rows for place in further)]
    found = _once([(row, measured_in(place, stem_of(Path(row.file)), str(row.sha256))) for row, place in places])
    every = [
        Measured(row, tuple(ms), place != table, place / f"{stem_of(Path(row.file))}.{divergence.STEP}.scores")
        for (row, place), ms in zip(places, against_own_bases(found), strict=True)
        if ms
    ]
    noted = _noted(workspace)
    return [one for one in every if _is_of_now(one, noted)]


def _once(found: Sequence[tuple[ResultRow, Sequence[Measurement]]]) -> list[list[Measurement]]:
    """Each measurement where it is first: what is the table's now was perhaps a further setting of an earlier build."""
    seen, kept = set[tuple[object, ...]](), list[list[Measurement]]()
    for row, measurements in found:
        keys = [(row.file, m.metric, *_setting(m.conditions)) for m in measurements]
        kept.append([m for key, m in zip(keys, measurements, strict=True) if key not in seen])
        seen.update(keys)
    return kept


def _setting(where: Conditions) -> tuple[object, ...]:
    text = where.corpus_sha256, where.n_ctx, where.n_chunks, where.base_sha256
    return *text, where.kv_type or F16, where.depth or 0


def of_checkpoints(rows: Sequence[ResultRow], root: Path) -> list[Measured]:
    """What was measured of checkpoints beside the files."""
    place = Workspace(root).measurements
    others = [row for row in rows if not row.is_gguf]
    found = [(row, checkpoint_measurements(place / f"{row.file}.{checkpoints.STEP}.json")) for row in others]
    return [Measured(row, tuple(measurements)) for row, measurements in found if measurements]


def of_tasks(rows: Sequence[ResultRow], root: Path) -> list[Measured]:
    """What was measured of the files by tasks: their questions are the text."""
    place = Workspace(root).measurements
    by_row = [(row, scores.measurements_in(place, stem_of(Path(row.file)), str(row.sha256))) for row in rows]
    return [Measured(row, tuple(found), is_further=True) for row, tasks in by_row for found in tasks]


def of_rows(
    rows: Sequence[ResultRow],
    first: Sequence[Sequence[Measurement]],
    rest: Sequence[Sequence[Measurement]],
    kept_in: Sequence[Path],
) -> list[Measured]:
    """Measurements with the rows of their files, compared with their base's own perplexity.

    Args:
        first: what the table of results has.
        rest: what it does not have.
        kept_in: the file of each of these measurements.
    """
    by_sha256, compared = {row.sha256: row for row in rows}, against_own_bases([*first, *rest])
    return [
        Measured(by_sha256[found[0].file_sha256], tuple(found), i >= len(first), token_scores.path_of(path))
        for i, (found, path) in enumerate(zip(compared, kept_in, strict=True))
        if found
    ]


@dataclass(frozen=True)
class Table:
    """What the table is measured on: a text by its name and its hash, and a context in tokens."""

    corpus: Json
    corpus_sha256: str | None
    n_ctx: int | None

    def has_text_of(self, where: Conditions) -> bool:
        """Whether that is on the same text: in another context a sample of it, for a precision, is another one."""
        named = where.corpus is not None and where.corpus == self.corpus and where.n_ctx != self.n_ctx
        return where.corpus_sha256 == self.corpus_sha256 or named


def further_texts(table: Table, further: Sequence[Sequence[Measurement]]) -> dict[str, str]:
    """What `--corpus` calls the further texts that a file was measured on, and their SHA-256."""
    where = [found[0].conditions for found in further]
    others = [c for c in where if c.corpus_sha256 is not None and not table.has_text_of(c)]
    return dict(sorted((c.corpus, c.corpus_sha256) for c in others if c.corpus and c.corpus_sha256))


def options(table: Table, further: Sequence[Sequence[Measurement]]) -> dict[str, Json]:
    """The options of a build that had a file measured in other contexts and with other KV caches, where it was."""
    where = [found[0].conditions for found in further]
    contexts = {c.n_ctx for c in where if table.has_text_of(c)} - {table.n_ctx, None}
    kinds = [kind for kind in kv_cache.TYPES if kind != F16 and any(c.kv_type == kind for c in where)]
    several = ",".join(map(str, [table.n_ctx, *sorted(n for n in contexts if n is not None)]))
    asked: dict[str, Json] = {"--ctx": several if contexts else None, "--kv-types": ",".join(kinds) or None}
    return {option: value for option, value in asked.items() if value is not None}


def to_csv(found: Sequence[Measured]) -> str:
    """`measurements.csv`; what is not known is empty, and no text in it is a spreadsheet's formula."""
    to = io.StringIO()
    table = csv.DictWriter(to, COLUMNS, lineterminator="\n")
    table.writeheader()
    for line in (line for one in found for line in _lines(one)):
        table.writerow({name: escape.csv(v) if isinstance(v, str) else v for name, v in line.items()})
    return to.getvalue()


def _lines(one: Measured) -> Iterator[dict[str, Json]]:
    row = {name: getattr(one.row, name) for name in (*_OF_FILE, "sha256")}
    for m in one.measurements:
        where = {name: getattr(m.conditions, name) for name in (*_OF_CONDITIONS, *_WHERE)}
        yield {**row, **where, **{name: getattr(m, name) for name in _VALUE}}
