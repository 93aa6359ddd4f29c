"""Step: a file's score in a task, and its flips against the base, from the answers of both."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from glob import escape
from pathlib import Path

from ggufkit.core.errors import InputError
from ggufkit.core.inputs import Input
from ggufkit.core.manifest import SUFFIX, Params
from ggufkit.core.part_names import stem_of
from ggufkit.core.records import GgufFile, Measurement, TaskScore
from ggufkit.measure.measurements import Figure, load, save
from ggufkit.measure.tasks import answers, flips, served
from ggufkit.measure.tasks.answers import Answered, Asking
from ggufkit.steps.session import Session
from ggufkit.steps.step import Made, Recipe, Result

STEP, VERSION = "task", 1
KIND = "task-"
"""What the names of these measurements begin with, behind that of the file."""
_FRACTIONS, _COUNTS = ("acc", "chance", "flips"), ("questions", "lost", "gained")


@dataclass(frozen=True)
class ScoreParams(Params):
    """Of which task a score is."""

    task: str = ""


def result_path(gguf: Path, task: str, session: Session) -> Path:
    """The file that holds a GGUF's score."""
    return session.workspace.measurements / f"{stem_of(gguf)}.{KIND}{task}.json"


def measure_all(base: GgufFile | None, files: Sequence[GgufFile], asking: Asking) -> list[Result]:
    """Ask the base and the files, and score their answers; what is there is kept.

    Returns:
        A file of measurements for the base, if there is one, then one for each file.

    Raises:
        ToolError: llama-perplexity, or the server, failed, or did not score all questions.
    """
    every = [*([base] if base is not None else []), *files]
    found = (served if asking.data.is_generated else answers).ask_all(every, asking)
    compared = found[0] if base is not None else None
    return [
        replace(scored, fresh=scored.fresh and own.fresh)
        for file, own in zip(every, found, strict=True)
        for scored in [_score(file, own, None if file is base else compared, asking)]
    ]


def score_of(found: Sequence[Measurement]) -> TaskScore | None:
    """A task's score from its measurements; None where there are none."""
    first = next((m for m in found if m.metric.endswith("_acc")), None)
    if first is None:
        return None
    task = first.metric.removesuffix("_acc")
    by_name = {m.metric.removeprefix(f"{task}_"): m for m in found}
    values = {name: m.value for name, m in by_name.items()}
    flipped = by_name.get("flips")
    return TaskScore(
        task=task,
        n=int(values.get("questions", 0)),
        acc=first.value,
        acc_stderr=first.stderr,
        chance=values.get("chance", 0.0),
        data_sha256=first.conditions.corpus_sha256 or "",
        llama_cpp_commit=first.conditions.llama_cpp_commit,
        flips=flipped.value if flipped is not None else None,
        flips_stderr=flipped.stderr if flipped is not None else None,
        lost=int(values["lost"]) if "lost" in values else None,
        gained=int(values["gained"]) if "gained" in values else None,
        p=values.get("flips_p"),
    )


def scores_in(measurements: Path, stem: str, digest: str) -> tuple[TaskScore, ...]:
    """The scores of a file with this hash, by the names of the tasks; measurements that cannot be read hold none."""
    scores = (score_of(found) for found in measurements_in(measurements, stem, digest))
    return tuple(score for score in scores if score is not None)


def measurements_in(measurements: Path, stem: str, digest: str) -> list[list[Measurement]]:
    """What was measured of a file with this hash, task by task."""
    found = sorted(measurements.glob(f"{escape(stem)}.{KIND}*.json"))
    files = [file for file in found if not file.name.endswith(SUFFIX)]
    every = ([m for m in _readable(file) if m.file_sha256 == digest] for file in files)
    return [one for one in every if one]


def _readable(file: Path) -> list[Measurement]:
    try:
        return load(file)
    except InputError:
        return []


def _score(gguf: GgufFile, own: Result, base: Result | None, asking: Asking) -> Result:
    session, task = asking.session, asking.data.name
    read = {"answers": own, **({"base_answers": base} if base is not None else {})}
    # Files that answer alike are told apart by their own hashes, which the measurements hold.
    inputs = {"gguf": str(gguf.sha256), **{role: result.sha256 for role, result in read.items()}}
    reads = tuple(Input(result.path, result.sha256) for result in read.values())
    recipe = Recipe(STEP, VERSION, inputs, ScoreParams(task).to_params(), reads=reads)

    def make(partial: Path) -> Made:
        found = answers.read(own.path)
        beside = None if base is None else answers.read(base.path)
        where = found.conditions
        if base is not None:
            where = replace(where, base_sha256=base.manifest.inputs["gguf"])
        save(partial, [
            Measurement(str(gguf.sha256), f"{task}_{name}", value, error, _unit(name), where)
            for name, (value, error) in _figures(found, beside)
        ])  # fmt: skip
        return Made()

    return session.ensure(recipe, result_path(gguf.path, task, session), make)


def _figures(found: Answered, base: Answered | None) -> Iterator[tuple[str, Figure]]:
    right = flips.accuracy(found.answers)
    yield "acc", (right.value, right.stderr)
    yield "questions", (float(len(found.right)), None)
    yield "chance", (found.chance, None)
    if base is not None:
        changed = flips.compare(base.answers, found.answers)
        yield "flips", (changed.share.value, changed.share.stderr)
        yield "lost", (float(changed.lost), None)
        yield "gained", (float(changed.gained), None)
        yield "flips_p", (changed.p, None)


def _unit(name: str) -> str:
    return "fraction" if name in _FRACTIONS else "questions" if name in _COUNTS else ""
