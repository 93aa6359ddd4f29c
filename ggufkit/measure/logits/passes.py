"""Base pass and comparison passes of llama-perplexity: one after the other through a file, or at once by pipes.

Where the tools know how, shared memory takes the place of the pipes.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ggufkit.core import failures, machine
from ggufkit.core.concurrency import Job, Task, run_processes
from ggufkit.core.errors import ToolError, ToolOutputError
from ggufkit.core.manifest import PARTIAL
from ggufkit.core.part_names import stem_of
from ggufkit.core.process import ToolOutput
from ggufkit.core.records import GgufFile
from ggufkit.llama import argv, evaluates, kld, logs, scoring_tool
from ggufkit.llama.kld import Divergence
from ggufkit.llama.logs import Estimate
from ggufkit.llama.scoring_tool import TokenScores
from ggufkit.measure import shares
from ggufkit.measure.evaluation import Evaluation
from ggufkit.measure.logits import pipes, shared_memory
from ggufkit.measure.shares import Share
from ggufkit.measure.tool import reads, refuse_short, require_read, run_tool
from ggufkit.steps.session import Session
from ggufkit.texts.corpus import Corpus

_MOST_AHEAD, _AHEAD_SHARE = 256 << 20, 32


@dataclass(frozen=True)
class BasePass:
    """A finished pass of the base."""

    file: GgufFile
    run: ToolOutput
    estimate: Estimate


@dataclass(frozen=True)
class FilePass:
    """A finished comparison of a file with the base; `scores` is None where only chunks are known."""

    file: GgufFile
    run: ToolOutput
    result: Divergence
    scores: TokenScores | None = None


Pass = BasePass | FilePass
Passes = Generator[Pass, None, list[GgufFile]]
"""Passes as they are done; returns the files whose statistics the tool lost: their pass must be repeated."""


def by_file(base: GgufFile, files: Sequence[GgufFile], evaluation: Evaluation, *, pinned: bool = False) -> Passes:
    """Write the base's logits to a file, then compare each file with it; the file is gone afterwards, unless it is kept.

    Args:
        pinned: run on one processor, where the tool loses no output.
    """
    share = shares.pinned() if pinned else Share(evaluation.session.threads)
    with _base_logits(base, evaluation, share) as (logits, whole):
        yield from _read_base(base, whole)
        lost = []
        for file in files:
            run = _run_file(file, logits, evaluation, share)
            failures.require_success(run, _doing(base, file))
            lost += yield from _read(file, run, evaluation)
        return lost


@contextlib.contextmanager
def _base_logits(base: GgufFile, evaluation: Evaluation, share: Share) -> Iterator[tuple[Path, ToolOutput]]:
    """The base's logits in a file, and the pass that wrote it: one that is kept, or for the length of a context."""

    def write(logits: Path) -> ToolOutput:
        run = run_base(base, logits, evaluation, share)
        refuse_short(run, evaluation.text)
        failures.require_success(run, _doing(base))
        return run

    if evaluation.kept is not None:
        yield evaluation.kept.get(evaluation.key_of_base(base), write)
        return
    logits = evaluation.session.workspace.scratch / "base.logits"
    logits.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield logits, write(logits)
    finally:
        logits.unlink(missing_ok=True)


def by_pipes(base: GgufFile, files: Sequence[GgufFile], evaluation: Evaluation, *, pinned: bool = False) -> Passes:
    """Evaluate the base and compare all files with it at once, through named pipes.

    Args:
        pinned: run each process on one processor, where the tool loses no output.
    """
    everyone, session = (base, *files), evaluation.session
    if pinned:
        given = [shares.pinned(number) for number in range(len(everyone))]
    else:
        given = shares.side_by_side(everyone, evaluation.options.n_ctx, session)
    with _stream(session, len(files)) as stream:
        tasks = [_base_task(base, stream, evaluation, given[0])]
        for file, sink, share in zip(files, stream.sinks, given[1:], strict=True):
            tasks.append(_file_task(base, file, sink, evaluation, share))
        run, *runs = _run_together(tasks, stream.carry, evaluation.text)
    yield from _read_base(base, run)
    lost = []
    for file, run in zip(files, runs, strict=True):
        lost += yield from _read(file, run, evaluation)
    return lost


@dataclass(frozen=True)
class _Stream:
    """How base logits travel: what the base writes, what the files read, what goes on in between and at the end."""

    source: Path
    sinks: Sequence[Path]
    carry: Job[object] = lambda _stop: None
    end: Callable[[], None] = lambda: None


@contextlib.contextmanager
def _stream(session: Session, n_files: int) -> Iterator[_Stream]:
    if n_files <= shared_memory.MOST_READERS and shared_memory.supported(session.tools):
        with shared_memory.open_ring(n_files, max(2 * _ahead(), 1 << 20)) as memory:
            yield _Stream(memory.path, [memory.path] * n_files, end=memory.end)
        return
    with pipes.named_pipes(session.workspace.scratch, n_files + 1) as (source, *sinks):
        yield _Stream(source, sinks, lambda stop: pipes.pump(source, sinks, stop, _ahead()))


def _ahead() -> int:
    """Bytes that the base may be ahead of the slowest reader: a batch of a large vocabulary, if memory has room."""
    return min(_MOST_AHEAD, machine.free_memory() // _AHEAD_SHARE)


def _base_task(base: GgufFile, stream: _Stream, evaluation: Evaluation, share: Share) -> Task:
    def run(stop: threading.Event) -> ToolOutput:
        try:
            return run_base(base, stream.source, evaluation, share, stop)
        finally:
            stream.end()

    return Task(_doing(base), run)


def _file_task(base: GgufFile, file: GgufFile, sink: Path, evaluation: Evaluation, share: Share) -> Task:
    return Task(_doing(base, file), lambda stop: _run_file(file, sink, evaluation, share, stop))


def _doing(base: GgufFile, file: GgufFile | None = None) -> str:
    if file is None:
        return f"evaluating the base {base.path.name}"
    return f"comparing {file.run_name} with {base.path.name}"


def _run_together(tasks: Sequence[Task], carry: Job[object], text: Corpus) -> list[ToolOutput]:
    try:
        return run_processes(tasks, carry)
    except ToolError as error:
        if error.log is not None and error.log.is_file():
            said = error.log.read_text(encoding="utf-8", errors="replace")
            refuse_short(ToolOutput((), 0, said, "", 0.0, error.log), text)
        raise


def run_base(
    base: GgufFile, logits: Path, evaluation: Evaluation, share: Share, stop: threading.Event | None = None
) -> ToolOutput:
    """Evaluate the base, and write what it predicts into a file or a named pipe; it may have ended badly."""
    session, compute = evaluation.session, evaluation.compute(base, share.threads)
    command = argv.base_logits(session.tools, base.path, logits, evaluation.excerpt, compute)
    title, log = f"Base pass of {base.path.name}", f"perplexity-{stem_of(base.path)}"
    share = reads(evaluation.text, share, session)
    run = run_tool([*command, *evaluates.overrides(base.path)], title, log, session, share, stop)
    if run.returncode == 0:
        require_read(run, evaluation.text)
    return run


def _run_file(
    file: GgufFile, logits: Path, evaluation: Evaluation, share: Share, stop: threading.Event | None = None
) -> ToolOutput:
    session, compute = evaluation.session, evaluation.compute(file, share.threads)
    command = argv.divergence(session.tools, file.path, logits, evaluation.options.n_ctx, compute)
    if evaluation.scorer is not None:
        command[0], share = str(evaluation.scorer), replace(share, scores=_scores_path(file, session))
        session.workspace.measurements.mkdir(parents=True, exist_ok=True)
    title, log = f"KL divergence of {file.run_name}", f"divergence-{file.run_stem}"
    return run_tool([*command, *evaluates.overrides(file.path)], title, log, session, share, stop)


def _read_base(base: GgufFile, run: ToolOutput) -> Iterator[BasePass]:
    """The base's estimate; one that was lost under load is measured again by whoever needs it."""
    try:
        estimate = logs.parse_perplexity(run)
    except ToolOutputError:
        if not logs.lost_tail(run):
            raise
        return
    yield BasePass(base, run, estimate)


def _read(file: GgufFile, run: ToolOutput, evaluation: Evaluation) -> Passes:
    path = _scores_path(file, evaluation.session)
    try:
        result = kld.parse_divergence(run)
        scores = scoring_tool.read(path, result.n_chunks)
    except ToolOutputError:
        if kld.lost_statistics(run):
            return [file]
        raise
    finally:
        path.unlink(missing_ok=True)
    yield FilePass(file, run, result, scores if scores is not None and scores.agrees_with(result) else None)
    return []


def _scores_path(file: GgufFile, session: Session) -> Path:
    return session.workspace.measurements / f"{file.run_stem}.scores{PARTIAL}"
