"""What was asked for with --tasks -> the questions that a file is asked, in llama-perplexity's format."""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from ggufkit.core import extras
from ggufkit.core.errors import CorpusError, UsageError
from ggufkit.core.hashing import sha256_file
from ggufkit.core.inputs import Input
from ggufkit.core.jsonfile import read_within
from ggufkit.core.paths import cache_dir, user_path
from ggufkit.core.progress import Reporter
from ggufkit.llama import task_files
from ggufkit.llama.task_files import BadRow, Question
from ggufkit.texts import hub_tables
from ggufkit.texts.tasks import rows, shapes
from ggufkit.texts.tasks.known import BUNDLED, GENERATED, SERVED_TASKS, TASKS, TITLES, Task

_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
_MOST_BYTES = 1 << 30
_SHOWN = 3
_HINT = (
    f"Name one of {', '.join(TITLES)}, or a file, also as NAME=FILE: JSON, JSONL, CSV or Parquet with the columns of one of "
    "these data sets, or what llama-perplexity reads (.txt, .csv, .bin)."
)


@dataclass(frozen=True)
class TaskSpec:
    """One of what --tasks lists: a name, and the user's own file with its questions, None for those of the hubs."""

    name: str
    file: Path | None = None

    @property
    def typed(self) -> str:
        """How it may be typed, without directories."""
        return self.name if self.file is None else f"{self.name}={self.file.name}"


@dataclass(frozen=True)
class Drawn:
    """How many questions are drawn, None for all, with which seed."""

    n: int | None = 400
    seed: int = 42


@dataclass(frozen=True)
class TaskData:
    """Questions as llama-perplexity reads them: the same file for all models.

    Args:
        name: what columns of results are called by.
        mode: of llama-perplexity, or one of `GENERATED`.
        path, sha256: the file, and its hash.
        questions: in the file's order.
        spec: as it was asked for, without directories.
        source_sha256: of what they were drawn from.
    """

    name: str
    mode: str
    path: Path
    sha256: str
    questions: tuple[Question, ...]
    spec: str
    source_sha256: str
    sampling: Drawn

    @property
    def title(self) -> str:
        """As it stands in sentences."""
        return TITLES.get(self.name, self.name)

    @property
    def is_generated(self) -> bool:
        """Whether the served model writes the answers."""
        return self.mode in GENERATED

    @property
    def chance(self) -> float:
        """The expected share of right answers of who guesses; nobody guesses what is to be written."""
        if self.is_generated:
            return 0.0
        return fmean(1 / len(question.answers) for question in self.questions)

    def as_input(self) -> Input:
        """The file as a step reads it."""
        return Input(self.path, self.sha256)


def parse(specs: Sequence[str]) -> tuple[TaskSpec, ...]:
    """What is asked for: each a name, FILE or NAME=FILE.

    Raises:
        UsageError: one is neither; or two have one name.
    """
    found = [_parse(spec) for spec in specs]
    names = [one.name for one in found]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UsageError(
            f"Two of --tasks are called {twice[0]}.", hint="Give one another name: --tasks NAME=FILE."
        )
    return tuple(found)


def _parse(spec: str) -> TaskSpec:
    if spec.lower() in TITLES:
        return TaskSpec(spec.lower())
    name, equals, given = spec.partition("=")
    if not (equals and _NAME.fullmatch(name)):
        given, name = spec, re.sub(r"[^a-z0-9]+", "_", Path(spec).stem.lower()).strip("_")
    file = user_path(given)
    if not file.is_file():
        raise UsageError(f"There is no task {spec!r}, and no such file.", hint=_HINT)
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"Columns of results cannot be called after {file.name}.", hint="Name it: --tasks NAME=FILE."
        )
    return TaskSpec(name, file)


def require_readable(specs: Sequence[TaskSpec]) -> None:
    """Raise MissingExtra for what cannot be read, or judged, for want of packages, before anything long runs."""
    for one in specs:
        if one.name in SERVED_TASKS:
            extras.require("tasks")
        if one.file is not None and one.file.suffix.lower() in rows.TABLES:
            extras.require("data", modules=("pyarrow",))
        elif one.file is None and one.name in _OF_HUBS and not _cached(_OF_HUBS[one.name]).is_file():
            extras.require("data", modules=("datasets",))


def resolve(spec: TaskSpec, sampling: Drawn, reporter: Reporter) -> TaskData:
    """The questions, drawn and written for llama-perplexity into the cache.

    What the tool cannot score is left out, and said; of a hub's data set so are rows that are no questions.

    Raises:
        CorpusError: a row of the user's file is no question: file, row and reason are named; or there are no questions.
        SourceError: a hub refuses its data set.
    """
    source = spec.file or _source(spec.name, reporter)
    mode, found, bad = _read(spec, source)
    for_tool = [(one, None if mode in GENERATED else task_files.unscorable(one, mode)) for one in found]
    left_out = bad + [(one.place, why) for one, why in for_tool if why is not None]
    usable = [one for one, why in for_tool if why is None]
    if not usable:
        first = f" {left_out[0][0]}: {left_out[0][1]}." if left_out else ""
        raise CorpusError(f"{source} has no question that can be asked.{first}", hint=_HINT)
    if left_out:
        listed = "; ".join(f"{place}: {why}" for place, why in left_out[:_SHOWN])
        more = f"; and {len(left_out) - _SHOWN} more" if len(left_out) > _SHOWN else ""
        reporter.warn(f"{spec.typed}: {len(left_out)} of {len(for_tool) + len(bad)} left out ({listed}{more}).")
    drawn = draw(usable, sampling)
    path = _write(spec.name, mode, drawn, reporter)
    return TaskData(spec.name, mode, path, sha256_file(path), drawn, spec.typed, sha256_file(source), sampling)


def draw(questions: Sequence[Question], sampling: Drawn) -> tuple[Question, ...]:
    """Some of the questions, or all where there are no more, in their order."""
    if sampling.n is None or sampling.n >= len(questions):
        return tuple(questions)
    chosen = random.Random(sampling.seed).sample(range(len(questions)), sampling.n)
    return tuple(questions[i] for i in sorted(chosen))


_Bad = list[tuple[str, str]]
"""Places of rows that are no questions, and why."""


def _read(spec: TaskSpec, source: Path) -> tuple[str, list[Question], _Bad]:
    """The mode, the questions, and what is none; of a user's own file nothing may be none."""
    if spec.file is None and spec.name in _OF_HUBS:
        return _collect(_OF_HUBS[spec.name], source)
    if spec.file is None:
        return (*_of_file(source), [])
    try:
        if spec.file.suffix.lower() == ".bin" or _is_for_tool(spec.file):
            mode = next(m for m, suffix in task_files.SUFFIXES.items() if suffix == spec.file.suffix.lower())
            return mode, list(task_files.read(_bytes(spec.file), mode)), []
        return (*_of_file(spec.file), [])
    except BadRow as bad:
        raise CorpusError(f"{spec.file}, {bad.place}: {bad.what}.", hint=_HINT) from None


def _is_for_tool(file: Path) -> bool:
    """Whether a file is text that llama-perplexity reads; a table of Winogrande's has a line of columns' names."""
    if file.suffix.lower() not in task_files.SUFFIXES.values():
        return False
    with file.open("rb") as opened:
        start = opened.readline(1 << 16).decode(errors="replace").removeprefix("\ufeff").strip()
    return file.suffix.lower() != ".csv" or shapes.shape_of(start.replace('"', "").split(",")) is None


def _bytes(file: Path) -> bytes:
    return read_within(file, _MOST_BYTES, CorpusError, hint=_HINT)


def _of_file(file: Path) -> tuple[str, list[Question]]:
    """The questions of a table, which is like one of the data sets. Raises BadRow, CorpusError."""
    if not rows.is_table(file):
        raise CorpusError(f"{file} is no file of tasks.", hint=_HINT)
    shape, found = None, []
    for place, row in rows.of_file(file):
        shape = shape or shapes.shape_of(list(row))
        if shape is None:
            raise BadRow(f"no task has the columns {', '.join(map(str, row)) or 'that it has: none'}", place)
        found.append(_sound(shapes.question(row, shape, place), shape.mode))
    return (shape.mode if shape is not None else task_files.MULTIPLE_CHOICE), found


def _collect(task: Task, source: Path) -> tuple[str, list[Question], _Bad]:
    found, bad = list[Question](), _Bad()
    shape = shapes.SHAPES[task.columns]
    for place, row in rows.of_cache(source):
        try:
            found.append(_sound(shapes.question(row, shape, place), task.mode))
        except BadRow as odd:
            bad.append((odd.place, odd.what))
    return task.mode, found, bad


def _sound(question: Question, mode: str) -> Question:
    if mode in GENERATED:
        return question
    task_files.require_sound(question, mode)
    return question


_OF_HUBS = {**TASKS, **SERVED_TASKS}


def _source(name: str, reporter: Reporter) -> Path:
    """The file with all rows of a task by name."""
    return _of_hub(_OF_HUBS[name], reporter) if name in _OF_HUBS else BUNDLED


def _of_hub(task: Task, reporter: Reporter) -> Path:
    """All rows of a task's data set, from the cache or a hub."""
    target = _cached(task)
    if not target.is_file():
        with hub_tables.making(target, reporter) as partial:
            rows.of_hub(task, partial, reporter)
    return target


def _cached(task: Task) -> Path:
    return cache_dir() / "tasks" / f"{task.name}.jsonl"


def _write(name: str, mode: str, questions: Sequence[Question], reporter: Reporter) -> Path:
    """The file for the tool, in the cache by its content."""
    generated = mode in GENERATED
    lines = "".join(f"{question.context}\n" for question in questions)
    data = lines.encode() if generated else task_files.write(questions, mode)
    suffix = ".jsonl" if generated else task_files.SUFFIXES[mode]
    target = cache_dir() / "tasks" / f"{name}-{hashlib.sha256(data).hexdigest()[:16]}{suffix}"
    if not target.is_file() or target.read_bytes() != data:
        with hub_tables.making(target, reporter) as partial:
            partial.write_bytes(data)
    return target
