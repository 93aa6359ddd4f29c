"""Base pass and comparison passes of llama-perplexity: one after the other through a file, or at once by pipes.

Where the tools know how, shared memory takes the place of the pipes.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ggufkit.core import failures, machine
from ggufkit.core.errors import ToolError, ToolOutputError
from ggufkit.core.process import ToolOutput
from ggufkit.core.records import GgufFile
from ggufkit.llama import argv, kld, logs
from ggufkit.llama.argv import Evaluation
from ggufkit.llama.kld import Divergence
from ggufkit.llama.logs import Estimate
from ggufkit.measure.logits import cpus, pipes, shared_memory
from ggufkit.measure.logits.group import Task, run_together
from ggufkit.measure.perplexity import EvalOptions, Share, memory_needed, one_processor, refuse_short, run_tool
from ggufkit.steps import offload
from ggufkit.steps.session import Session
from ggufkit.texts.corpus import Corpus

_MOST_AHEAD, _AHEAD_SHARE = 256 << 20, 32


@dataclass(frozen=True)
class BasePass:
    """A finished pass of the base."""

    run: ToolOutput
    estimate: Estimate


@dataclass(frozen=True)
class FilePass:
    """A finished comparison of a file with the base."""

    run: ToolOutput
    result: Divergence


OnFile = Callable[[GgufFile, FilePass], object]
OnBase = Callable[[BasePass], object]


def by_file(
    base: GgufFile,
    files: Sequence[GgufFile],
    corpus: Corpus,
    options: EvalOptions,
    session: Session,
    on_file: OnFile,
    on_base: OnBase,
    *,
    calm: bool = False,
) -> list[GgufFile]:
    """Write the base's logits to a file, then compare each file with it; the file is gone afterwards.

    Args:
        calm: run on one processor, where the tool loses no output.

    Returns:
        The files whose statistics the tool lost: their pass must be repeated.
    """
    logits = session.workspace.scratch / "base.logits"
    logits.parent.mkdir(parents=True, exist_ok=True)
    whole = one_processor() if calm else Share(session.threads)
    try:
        run = _run_base(base, logits, corpus, options, session, whole, None)
        refuse_short(run, corpus)
        failures.require_success(run, f"evaluating the base {base.path.name}")
        _take_base(run, on_base)
        lost = []
        for file in files:
            run = _run_file(file, logits, options, session, whole, None)
            failures.require_success(run, f"comparing {file.path.name} with {base.path.name}")
            lost += _take(file, run, on_file)
        return lost
    finally:
        logits.unlink(missing_ok=True)


def by_pipes(
    base: GgufFile,
    files: Sequence[GgufFile],
    corpus: Corpus,
    options: EvalOptions,
    session: Session,
    on_file: OnFile,
    on_base: OnBase,
    *,
    calm: bool = False,
) -> list[GgufFile]:
    """Evaluate the base and compare all files with it at once, through named pipes.

    Args:
        calm: run each process on one processor, where the tool loses no output.

    Returns:
        The files whose statistics the tool lost.
    """
    everyone = (base, *files)
    shares = (
        [one_processor(i) for i in range(len(everyone))] if calm else _shares(everyone, options.n_ctx, session)
    )
    with _stream(session, len(files)) as stream:

        def evaluate_base(cancel: threading.Event) -> ToolOutput:
            try:
                return _run_base(base, stream.source, corpus, options, session, shares[0], cancel)
            finally:
                stream.end()

        tasks = [
            Task(f"evaluating the base {base.path.name}", evaluate_base),
            *(
                _comparison(file, sink, base, options, session, share)
                for file, sink, share in zip(files, stream.sinks, shares[1:], strict=True)
            ),
        ]
        run, *runs = _together(tasks, stream.carry, corpus)
    _take_base(run, on_base)
    return [lost for file, run in zip(files, runs, strict=True) for lost in _take(file, run, on_file)]


@dataclass(frozen=True)
class _Stream:
    """How base logits travel: what the base writes, what the files read, what goes on in between and at the end."""

    source: Path
    sinks: Sequence[Path]
    carry: Callable[[threading.Event], None] = lambda _cancel: None
    end: Callable[[], None] = lambda: None


@contextlib.contextmanager
def _stream(session: Session, n_files: int) -> Iterator[_Stream]:
    if n_files <= shared_memory.MOST_READERS and shared_memory.supported(session.tools):
        with shared_memory.open_ring(n_files, max(2 * _ahead(), 1 << 20)) as memory:
            yield _Stream(memory.path, [memory.path] * n_files, end=memory.end)
        return
    with pipes.named_pipes(session.workspace.scratch, n_files + 1) as (source, *sinks):
        yield _Stream(source, sinks, lambda cancel: pipes.pump(source, sinks, cancel, _ahead()))


def _comparison(
    file: GgufFile, sink: Path, base: GgufFile, options: EvalOptions, session: Session, share: Share
) -> Task:
    doing = f"comparing {file.path.name} with {base.path.name}"
    return Task(doing, lambda cancel: _run_file(file, sink, options, session, share, cancel))


def _together(tasks: Sequence[Task], carry: Callable[[threading.Event], None], corpus: Corpus) -> list[ToolOutput]:
    try:
        return run_together(tasks, carry)
    except ToolError as error:
        if error.log is not None and error.log.is_file():
            text = error.log.read_text(encoding="utf-8", errors="replace")
            refuse_short(ToolOutput((), 0, text, "", 0.0, error.log), corpus)
        raise


def _ahead() -> int:
    """Bytes that the base may be ahead of the slowest reader: a batch of a large vocabulary, if memory has room."""
    return min(_MOST_AHEAD, machine.free_memory() // _AHEAD_SHARE)


def _shares(files: Sequence[GgufFile], n_ctx: int, session: Session) -> list[Share]:
    """On a CPU each process gets processors of its own; on GPUs they share the processors.

    Of several GPUs each process gets one, if its file fits; else all processes see all GPUs, and llama.cpp spreads them.
    """
    if session.tools.backend == "cpu":
        parts = cpus.share(machine.usable_cpus(), len(files))
        return [Share(cpus.threads(part, session.threads, len(files)), part or None) for part in parts]
    threads, gpus = max(1, session.threads // len(files)), offload.gpus(session)
    needs = [memory_needed(f, n_ctx) for f in files]
    placed = offload.place(needs, [gpu.memory_free for gpu in gpus]) if len(gpus) > 1 else None
    return [Share(threads, None, None if placed is None else gpus[placed[i]].uuid) for i in range(len(files))]


def _run_base(
    base: GgufFile,
    logits: Path,
    corpus: Corpus,
    options: EvalOptions,
    session: Session,
    share: Share,
    cancel: threading.Event | None,
) -> ToolOutput:
    compute = offload.compute(session, options.ngl, share.threads, options.n_ctx)
    evaluation = Evaluation(corpus.path, options.n_ctx, options.n_chunks)
    command = argv.base_logits(session.tools, base.path, logits, evaluation, compute)
    title, log = f"Base pass of {base.path.name}", f"perplexity-{base.path.stem}"
    return run_tool(command, title, log, session, cancel=cancel, cpus=share.cpus, env=share.environment)


def _run_file(
    file: GgufFile,
    logits: Path,
    options: EvalOptions,
    session: Session,
    share: Share,
    cancel: threading.Event | None,
) -> ToolOutput:
    compute = offload.compute(session, options.ngl, share.threads, options.n_ctx)
    command = argv.divergence(session.tools, file.path, logits, options.n_ctx, compute)
    title, log = f"KL divergence of {file.path.name}", f"divergence-{file.path.stem}"
    return run_tool(command, title, log, session, cancel=cancel, cpus=share.cpus, env=share.environment)


def _take_base(run: ToolOutput, on_base: OnBase) -> None:
    """Hand over the base's estimate; one that was lost under load is measured again by whoever needs it."""
    try:
        estimate = logs.parse_perplexity(run)
    except ToolOutputError:
        if not logs.lost_tail(run):
            raise
        return
    on_base(BasePass(run, estimate))


def _take(file: GgufFile, run: ToolOutput, on_file: OnFile) -> list[GgufFile]:
    try:
        result = kld.parse_divergence(run)
    except ToolOutputError:
        if kld.lost_statistics(run):
            return [file]
        raise
    on_file(file, FilePass(run, result))
    return []
