"""Step: which questions of a task a GGUF answers rightly, by llama-perplexity."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from ggufkit.core import failures, process
from ggufkit.core.concurrency import run_in_slots
from ggufkit.core.errors import InputError, ToolOutputError
from ggufkit.core.jsonfile import read_json
from ggufkit.core.manifest import Notes, Params
from ggufkit.core.part_names import stem_of
from ggufkit.core.process import Surroundings, ToolOutput
from ggufkit.core.records import Conditions, GgufFile, Json
from ggufkit.llama import argv, evaluates, task_log
from ggufkit.llama.argv import TaskExcerpt
from ggufkit.llama.task_files import WINOGRANDE
from ggufkit.measure import shares
from ggufkit.measure.evaluation import ran_on
from ggufkit.measure.shares import Share
from ggufkit.measure.tool import ATTEMPTS, pays_to_pin
from ggufkit.steps import offload
from ggufkit.steps.load_check import require_computes
from ggufkit.steps.session import Session
from ggufkit.steps.step import Made, Recipe, Result
from ggufkit.texts.tasks.known import GSM8K, IFEVAL
from ggufkit.texts.tasks.questions import TaskData

STEP, VERSION = "answers", 1
_JUDGE, _JUDGED = "lm_eval", (GSM8K, IFEVAL)
_SEQUENCES, _CONTEXT = 32, 1024
_BYTES_PER_TOKEN = 2
"""Fewer than any text has: a context that turns out too small is made larger, at the price of another run."""


@dataclass(frozen=True)
class AnswersParams(Params):
    """What decides answers besides the file, the questions and the tools; `batch` and `ubatch` may be the tool's own.

    `judge` is the package that tells right answers from wrong ones, with its version, where ggufkit does not itself.
    """

    mode: str = ""
    ngl: int | None = None
    backend: str = "cpu"
    batch: int | None = None
    ubatch: int | None = None
    judge: str = ""

    def to_params(self) -> dict[str, Json]:
        """What is there of it."""
        missing = {"batch", "ubatch"} if self.ubatch is None else set()
        missing |= set() if self.judge else {"judge"}
        return {key: value for key, value in super().to_params().items() if key not in missing}


@dataclass(frozen=True)
class AnswersNotes(Notes):
    """Where the questions come from: as they were asked for, how many were drawn (None: all), and with which seed."""

    tool_s: float = 0.0
    task: str = ""
    task_spec: str = ""
    task_samples: int | None = None
    task_seed: int | None = None
    task_source_sha256: str = ""


@dataclass(frozen=True)
class Answered:
    """A file's answers.

    Args:
        right: "1" and "0" for each question, right and wrong, in the order in which the tool took them: the same for all
            files, and for all modes but HellaSwag that of `places`.
        places: where the questions stand in their source, in the order of the file that the tool read.
        chance: the expected share of right answers of who guesses.
    """

    task: str
    right: str
    places: tuple[str, ...]
    chance: float
    conditions: Conditions

    @property
    def answers(self) -> tuple[bool, ...]:
        """For each question whether it was answered rightly."""
        return tuple(one == "1" for one in self.right)


@dataclass(frozen=True)
class Asking:
    """Questions on their way to files: with so many layers on the GPU, in which command."""

    data: TaskData
    ngl: int | None
    session: Session

    def compute(self, threads: int) -> argv.Compute:
        """How the tool computes with so many threads."""
        return offload.compute(self.session, self.ngl, threads, self.room().n_ctx)

    def room(self) -> TaskExcerpt:
        """What the tool does, and a context that should hold the longest question with all its answers."""
        data = self.data
        longest = max(q.n_bytes for q in data.questions) * (2 if data.mode == WINOGRANDE else 1)
        most = max(len(q.answers) for q in data.questions)
        n_ctx = max(_CONTEXT, -(-longest // _BYTES_PER_TOKEN))
        return TaskExcerpt(data.mode, data.path, len(data.questions), -(-most // _SEQUENCES) * _SEQUENCES, n_ctx)


def result_path(gguf: Path, task: str, session: Session) -> Path:
    """The file that holds a GGUF's answers."""
    return session.workspace.measurements / f"{stem_of(gguf)}.{task}.{STEP}.json"


def recipe(gguf: GgufFile, asking: Asking) -> Recipe:
    """What decides a file's answers."""
    data, session, how = asking.data, asking.session, asking.compute(1)
    judge = f"{_JUDGE} {importlib.metadata.version(_JUDGE)}" if data.mode in _JUDGED else ""
    params = AnswersParams(data.mode, asking.ngl, session.tools.backend, how.batch, how.ubatch, judge)
    inputs = {"gguf": str(gguf.sha256), "questions": data.sha256}
    reads = (gguf.as_input(), data.as_input())
    return Recipe(STEP, VERSION, inputs, params.to_params(), session.tools.identity, reads)


def ask_all(files: Sequence[GgufFile], asking: Asking) -> list[Result]:
    """Ask several files, on GPUs as many at once as pays; what is there is kept.

    Raises:
        ToolError: llama-perplexity failed, or did not score all questions.
    """
    slots = shares.slots(files, asking.room().n_ctx, asking.session)
    return run_in_slots([partial(_ask, file, asking) for file in files], slots)


def read(result: Path) -> Answered:
    """Answers on disk. Raises InputError where they are none that `ask_all` wrote."""
    hint = "Remove it, and measure again."
    found = read_json(result, Answered, hint=hint)
    if not found.right or set(found.right) - {"0", "1"} or len(found.right) != len(found.places):
        raise InputError(f"{result} holds no answers.", hint=hint)
    return found


def _ask(gguf: GgufFile, asking: Asking, share: Share) -> Result:
    session = asking.session

    def ask() -> tuple[ToolOutput, tuple[bool, ...]]:
        return offload.with_fewer(
            lambda ngl: _until_whole(gguf, replace(asking, ngl=ngl), share), asking.ngl, gguf, session
        )

    return kept(gguf, asking, ask)


def kept(gguf: GgufFile, asking: Asking, ask: Callable[[], tuple[ToolOutput, tuple[bool, ...]]]) -> Result:
    """A file's answers as a result; `ask` gives them, and what its tool said, where they are not there yet."""
    session, data = asking.session, asking.data

    def make(partial_path: Path) -> Made:
        require_computes(gguf.path, session)  # what computes no numbers gives answers, too
        run, right = ask()
        places = tuple(question.place for question in data.questions)
        marks = "".join("1" if one else "0" for one in right)
        found = Answered(data.name, marks, places, data.chance, _conditions(run, asking))
        partial_path.write_text(json.dumps(asdict(found), indent=1) + "\n", encoding="utf-8")
        return Made([run], _notes(run, data).to_notes())

    n_bytes = sum(question.n_bytes for question in data.questions)
    work = session.work("tasks", gguf.n_params * n_bytes, data.name)
    return session.ensure(recipe(gguf, asking), result_path(gguf.path, data.name, session), make, work=work)


def _notes(run: ToolOutput, data: TaskData) -> AnswersNotes:
    drawn = data.sampling
    seed = None if drawn.n is None else drawn.seed
    return AnswersNotes(round(run.duration_s, 3), data.name, data.spec, drawn.n, seed, data.source_sha256)


def _until_whole(gguf: GgufFile, asking: Asking, share: Share) -> tuple[ToolOutput, tuple[bool, ...]]:
    """Run until every question is scored: a log that lost its tail, or too small a context, is worth another try."""
    room, session = asking.room(), asking.session
    for attempt in range(1, ATTEMPTS + 1):
        run = _run(gguf, asking, room, share)
        if (needed := task_log.tokens_needed(run)) is not None and attempt < ATTEMPTS:
            room = replace(room, n_ctx=needed)
            continue
        failures.require_success(run, f"asking {gguf.path.name} {asking.data.title}")
        try:
            return run, task_log.parse_answers(run, asking.data.mode, asking.data.questions)
        except ToolOutputError as error:
            if attempt == ATTEMPTS or not task_log.lost_tail(run):
                raise
            session.reporter.info(f"{error.message} Trying once more.")
        share = shares.pinned() if pays_to_pin(run.duration_s, session) else share
    raise AssertionError("unreachable")


def _run(gguf: GgufFile, asking: Asking, room: TaskExcerpt, share: Share) -> ToolOutput:
    session, data = asking.session, asking.data
    command = argv.tasks(session.tools, gguf.path, room, asking.compute(share.threads))
    where = Surroundings({**offload.environment(), **share.environment}, cpus=share.cpus)
    with session.reporter.step(f"{data.title}: {gguf.path.name}", room.n_tasks) as progress:

        def watch(_stream: str, text: str) -> None:
            if (done := task_log.tasks_done(text)) is not None:
                progress.update(done, room.n_tasks, "questions")

        log = session.workspace.log(f"{data.name}-{stem_of(gguf.path)}")
        words = [*command, *evaluates.overrides(gguf.path)]
        return process.run(words, surroundings=where, log=log, on_text=watch)


def _conditions(run: ToolOutput, asking: Asking) -> Conditions:
    return replace(ran_on(run, asking.session), corpus_sha256=asking.data.sha256, corpus=asking.data.spec)
