"""Step: how well a GGUF predicts a text, by llama-perplexity."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from ggufkit.core import failures, machine, process
from ggufkit.core.concurrency import run_all
from ggufkit.core.errors import CorpusError, ToolOutputError
from ggufkit.core.manifest import Notes, Params
from ggufkit.core.process import Surroundings, ToolOutput
from ggufkit.core.progress import Reporter
from ggufkit.core.records import Conditions, GgufFile, Json
from ggufkit.llama import argv, logs, memory
from ggufkit.llama.argv import Evaluation
from ggufkit.llama.gguf import read_header
from ggufkit.llama.logs import Estimate
from ggufkit.measure.measurements import Value, measured, save
from ggufkit.steps import offload
from ggufkit.steps.session import Session
from ggufkit.steps.step import Made, Recipe, Result
from ggufkit.texts.corpus import Corpus

STEP, VERSION = "perplexity", 1
ATTEMPTS = 3
"""The tool prints from a thread that its exit does not wait for, so that the end of the output can be lost: of one
run in twenty under load, and of every second that is over in no time."""

_SHORT_S, _SHORT_ON_GPU_S = 60.0, 5.0
_BESIDE = (1, 2, 3, 4)


def calm(seconds: float, session: Session) -> bool:
    """Whether to repeat a pass of that length on one processor: there the printing thread always keeps up.

    On a GPU no longer one: what takes the processors there, the sums over all logits, takes one of them far longer.
    """
    return seconds < (_SHORT_S if session.tools.backend == "cpu" else _SHORT_ON_GPU_S)


def warn_of_context(gguf: Path, n_ctx: int, reporter: Reporter) -> None:
    """Beyond the context that a model was trained on its predictions fall apart, and those of its quantizations too."""
    trained = read_header(gguf).hparam("context_length")
    if 0 < trained < n_ctx:
        reporter.warn(
            f"{gguf.name} was trained on a context of {trained:,} tokens: at --ctx {n_ctx} its figures say little."
        )


@dataclass(frozen=True)
class Share:
    """What a process may use: its threads, its processors (None: all), and its GPU's UUID (None: any)."""

    threads: int
    cpus: Sequence[int] | None = None
    gpu: str | None = None

    @property
    def environment(self) -> dict[str, str]:
        """What tells the process which GPU is its own."""
        return {} if self.gpu is None else {"CUDA_VISIBLE_DEVICES": self.gpu}


def one_processor(number: int = 0) -> Share:
    """A single thread on a single processor, another one for each number."""
    usable = machine.usable_cpus()
    return Share(1, (usable[number % len(usable)],) if usable else None)


@dataclass(frozen=True)
class EvalParams(Params):
    """What decides quality measurements besides the files and the tools.

    `batch` and `ubatch` are missing where the tool's own are used, `precision` where nobody asked for one.
    """

    n_ctx: int = 512
    n_chunks: int | None = None
    ngl: int | None = None
    backend: str = "cpu"
    batch: int | None = None
    ubatch: int | None = None
    precision: float | None = None

    def to_params(self) -> dict[str, Json]:
        """What is there of it."""
        missing = {"batch", "ubatch"} if self.ubatch is None else set()
        missing |= {"precision"} if self.precision is None else set()
        return {key: value for key, value in super().to_params().items() if key not in missing}


@dataclass(frozen=True)
class EvalNotes(Notes):
    """What is known of quality measurements: seconds of the tool, and the text as the user named it."""

    tool_s: float = 0.0
    corpus: str = ""


@dataclass(frozen=True)
class EvalOptions:
    """What is evaluated: context in tokens, chunks of that many tokens (None: all of the text).

    `precision` is the relative standard error of mean KL divergence that is enough, None for all chunks.
    """

    n_ctx: int = 512
    n_chunks: int | None = None
    ngl: int | None = None
    precision: float | None = None

    def params(self, session: Session) -> dict[str, Json]:
        """What decides the result besides the files and the tools."""
        how, backend = offload.compute(session, self.ngl, 1, self.n_ctx), session.tools.backend
        params = EvalParams(self.n_ctx, self.n_chunks, self.ngl, backend, how.batch, how.ubatch, self.precision)
        return params.to_params()


def result_path(gguf: GgufFile, session: Session) -> Path:
    """The file that holds a GGUF's perplexity."""
    return session.workspace.measurements / f"{gguf.path.stem}.perplexity.json"


def recipe(gguf: GgufFile, corpus: Corpus, options: EvalOptions, session: Session) -> Recipe:
    """What decides a file's perplexity."""
    inputs = {"gguf": str(gguf.sha256), "corpus": corpus.sha256}
    return Recipe(STEP, VERSION, inputs, options.params(session), session.tools.identity)


def measure_all(files: Sequence[GgufFile], corpus: Corpus, options: EvalOptions, session: Session) -> list[Result]:
    """Measure the perplexity of several files, on GPUs as many at once as pays. Raises as `measure` does.

    A file that no GPU holds gets all of them, before the others.
    """
    free = [gpu.memory_free for gpu in offload.gpus(session)]
    large = [f for f in files if free and offload.place([memory_needed(f, options.n_ctx)], free) is None]
    done = {file.path: measure(file, corpus, options, session) for file in large}
    rest = [f for f in files if f.path not in done]
    jobs = [partial(measure, file, corpus, options, session, None) for file in rest]
    done |= zip((f.path for f in rest), run_all(jobs, slots(rest, options.n_ctx, session)), strict=True)
    return [done[file.path] for file in files]


def memory_needed(file: GgufFile, n_ctx: int) -> int:
    """Bytes that llama-perplexity takes for a file."""
    return memory.evaluation_ram(read_header(file.path), file.size_bytes, n_ctx)


def slots(files: Sequence[GgufFile], n_ctx: int, session: Session) -> list[Share]:
    """What may run at once: one process on a CPU; on each GPU as many as its memory holds, up to four.

    With a large vocabulary one process leaves a GPU idle most of the time.
    """
    gpus = offload.gpus(session)
    if not gpus or len(files) < 2:
        return [Share(session.threads)]
    need = max(memory_needed(f, n_ctx) for f in files)
    beside = memory.ram_beside_gpu(read_header(files[0].path), n_ctx)
    most = min(len(files), max(1, machine.free_memory() // beside))
    places = [gpu for n in _BESIDE for gpu in gpus if offload.place([need] * n, [gpu.memory_free]) is not None]
    used = places[:most]
    if not used:
        return [Share(session.threads)]
    return [Share(session.threads // len(used) or 1, None, gpu.uuid if len(gpus) > 1 else None) for gpu in used]


def measure(
    gguf: GgufFile,
    corpus: Corpus,
    options: EvalOptions,
    session: Session,
    text: Corpus | None = None,
    share: Share | None = None,
) -> Result:
    """Measure a file's perplexity unless that is done already; the result is a file of measurements.

    Args:
        text: the sample of `corpus` that is evaluated in its place, where a precision was asked for.
        share: what the process may use, all of the machine by default.

    Raises:
        CorpusError: the text has fewer than two chunks.
        ToolError: llama-perplexity failed, or gave no finite estimate.
    """

    def make(partial_path: Path) -> Made:
        whole = share or Share(session.threads)
        run, estimate = _run_and_parse(gguf, text or corpus, options, session, whole)
        return write(partial_path, gguf, run, estimate, text or corpus, session)

    return session.ensure(
        recipe(gguf, corpus, options, session),
        result_path(gguf, session),
        make,
    )


def write(
    partial: Path,
    gguf: GgufFile,
    run: ToolOutput,
    estimate: Estimate,
    corpus: Corpus,
    session: Session,
    base_sha256: str | None = None,
) -> Made:
    """Write the measurements of a pass that is done."""
    values: dict[str, Value] = {
        "ppl": (estimate.ppl, estimate.stderr),
        "eval_tps": (estimate.n_chunks * estimate.n_ctx / run.duration_s, None),
    }
    where = conditions(run, session, corpus, estimate.n_ctx, estimate.n_chunks, base_sha256)
    save(partial, measured(str(gguf.sha256), values, where))
    return Made([run], EvalNotes(round(run.duration_s, 3), corpus.name).to_notes())


def _run_and_parse(
    gguf: GgufFile, corpus: Corpus, options: EvalOptions, session: Session, share: Share
) -> tuple[ToolOutput, Estimate]:
    """Run until there is an estimate. A log that lost its tail is worth another try."""
    run, estimate = offload.with_fewer(
        lambda ngl: _attempt(gguf, corpus, replace(options, ngl=ngl), session, share), options.ngl, gguf, session
    )
    offload.tell(gguf, logs.parse_placement(run), session)
    return run, estimate


def _attempt(
    gguf: GgufFile, corpus: Corpus, options: EvalOptions, session: Session, share: Share
) -> tuple[ToolOutput, Estimate]:
    evaluation = Evaluation(corpus.path, options.n_ctx, options.n_chunks)
    title, log = f"Perplexity of {gguf.path.name}", f"perplexity-{gguf.path.stem}"
    for attempt in range(1, ATTEMPTS + 1):
        compute = offload.compute(session, options.ngl, share.threads, options.n_ctx)
        command = argv.perplexity(session.tools, gguf.path, evaluation, compute)
        run = run_tool(command, title, log, session, cpus=share.cpus, env=share.environment)
        refuse_short(run, corpus)
        failures.require_success(run, f"evaluating {gguf.path.name}")
        try:
            return run, logs.parse_perplexity(run)
        except ToolOutputError as error:
            if attempt == ATTEMPTS or not logs.lost_tail(run):
                raise
            session.reporter.info(f"{error.message} Trying once more.")
        share = one_processor() if calm(run.duration_s, session) else share
    raise AssertionError("unreachable")


def run_tool(
    command: Sequence[str],
    title: str,
    log: str,
    session: Session,
    *,
    cancel: threading.Event | None = None,
    cpus: Sequence[int] | None = None,
    env: Mapping[str, str] | None = None,
) -> ToolOutput:
    """Run llama-perplexity and report how many chunks it has done. A run that failed is returned like any other."""
    with contextlib.suppress(_Failed), session.reporter.step(title) as progress:
        counter = logs.ChunkCounter()

        def watch(_stream: str, text: str) -> None:
            counter.feed(text)
            if counter.total:
                progress.update(counter.done, counter.total, "chunks")

        whole = {**offload.environment(), **(env or {})}
        where = session.workspace.log(log)
        ended = process.run(
            command, log=where, on_text=watch, cancel=cancel, surroundings=Surroundings(whole, cpus=cpus or ())
        )
        run = logs.ended_truly(ended)
        if run.returncode != 0:
            raise _Failed  # a step that ends so is not shown as done
    return run


class _Failed(Exception):
    """The tool ended badly."""


def refuse_short(run: ToolOutput, corpus: Corpus) -> None:
    """Raise CorpusError when the text was too short for the tool."""
    if "you need at least" in run.text:
        raise CorpusError(
            f"The text {corpus.path} is too short: {logs.explain_missing(run.text)}",
            hint="Give a longer text with --corpus, or a smaller --ctx.",
            log=run.log,
        )


def conditions(
    run: ToolOutput, session: Session, corpus: Corpus, n_ctx: int, n_chunks: int, base_sha256: str | None = None
) -> Conditions:
    """What a measurement of quality depends on, as the tool reported it."""
    placement = logs.parse_placement(run)
    device = placement.device or machine.cpu_name()
    return Conditions(
        backend=session.tools.backend if placement.layers_on_gpu else "cpu",
        device=device,
        ngl=placement.layers_on_gpu,
        threads=session.threads,
        machine=machine.describe(),
        llama_cpp_commit=session.tools.commit,
        corpus_sha256=corpus.sha256,
        n_ctx=n_ctx,
        n_chunks=n_chunks,
        base_sha256=base_sha256,
    )
