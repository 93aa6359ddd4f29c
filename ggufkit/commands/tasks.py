"""The command that asks questions: tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ggufkit.commands.measure import require_different_names
from ggufkit.commands.places import beside
from ggufkit.core.errors import InputError
from ggufkit.core.progress import Reporter
from ggufkit.core.records import GgufFile
from ggufkit.llama import evaluates, kinship
from ggufkit.llama.gguf import read_header
from ggufkit.measure.evaluation import warn_of_guess
from ggufkit.measure.tasks import scores
from ggufkit.measure.tasks.answers import Asking
from ggufkit.models import sources
from ggufkit.request import RunOptions
from ggufkit.steps.step import Result
from ggufkit.texts.tasks import questions
from ggufkit.texts.tasks.known import TASKS
from ggufkit.texts.tasks.questions import Drawn

_VAIN, _WITHOUT = (
    "answers no questions",
    "`ggufkit build` compares the embeddings of its quantized files with those of the F16.",
)


@dataclass(frozen=True)
class Tasks:
    """Which tasks, by name or as files of one's own, and how their questions are drawn."""

    names: tuple[str, ...] = tuple(TASKS)
    drawn: Drawn = field(default_factory=Drawn)


@dataclass(frozen=True)
class Scored:
    """Files, the base first where there is one, and the results for each of them; `out` is where these lie."""

    files: tuple[GgufFile, ...]
    results: tuple[Result, ...]
    out: Path


def tasks(
    ggufs: Sequence[Path], base: Path | None, wanted: Tasks, out: Path | None, run: RunOptions, reporter: Reporter
) -> Scored:
    """Ask GGUFs questions, and compare their answers with the base's. Raises GgufkitError."""
    asked = questions.parse(wanted.names)
    questions.require_readable(asked)
    paths = [path for path in ggufs if base is None or path.resolve() != base.resolve()]
    require_different_names([*([base] if base else []), *paths])
    files = [sources.open_gguf(path, reporter) for path in ([base] if base else []) + paths]
    for file in files:
        evaluates.require_generates(file.path, _VAIN, _WITHOUT)
        warn_of_guess(file.path, reporter)
    for file in files[1:] if base is not None else ():
        _require_kin(file, files[0])
    data = [questions.resolve(one, wanted.drawn, reporter) for one in asked]
    session = run.session(out or beside(ggufs[0]), reporter)
    with session.workspace.locked():
        compared = files[0] if base is not None else None
        rest = files[1:] if base is not None else files
        done = [
            result for one in data for result in scores.measure_all(compared, rest, Asking(one, run.ngl, session))
        ]
    return Scored(tuple(files), tuple(done), session.workspace.root)


def _require_kin(file: GgufFile, base: GgufFile) -> None:
    """Flips are told of files of one model alone. Raises InputError."""
    reasons = kinship.strangeness(read_header(file.path), read_header(base.path))
    if reasons:
        message = f"{file.path} is not of the model of {base.path}: {'; '.join(reasons)}."
        raise InputError(message, hint="Give with --base the file that it was made from.")
