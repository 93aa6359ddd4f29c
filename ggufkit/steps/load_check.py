"""Is a GGUF one that llama.cpp loads and computes with? Asked before a file gets its final name."""

from __future__ import annotations

import signal
import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

from ggufkit.core import failures, process
from ggufkit.core.concurrency import run_both
from ggufkit.core.errors import GgufError, ResourceError, ToolchainError, ToolOutputError
from ggufkit.core.expected import timed
from ggufkit.core.manifest import PARTIAL
from ggufkit.core.process import Surroundings, ToolOutput
from ggufkit.llama import argv, cuda, embedding_tool, evaluates, load_errors, reference
from ggufkit.llama.adapter import Adapter
from ggufkit.llama.argv import Compute, Excerpt
from ggufkit.llama.embeddings import ROOM, require_finite
from ggufkit.llama.gguf import read_header
from ggufkit.llama.logits_file import SavedLogits, read_logits
from ggufkit.steps import offload
from ggufkit.steps.session import Session
from ggufkit.steps.step import settle

_LONG = 4 << 30
_WORDS = "It was a dark and stormy night."
FEW = 8
"""Tokens that are enough to see a model compute."""

# Newer builds fit layers to the memory of a GPU, and copy weights into another order: neither pays for a few tokens.
# Flash attention computes in F16 what is to be compared in F32.
_PLAIN = {"LLAMA_ARG_FIT": "off", "LLAMA_ARG_NO_REPACK": "1", "LLAMA_ARG_FLASH_ATTN": "off"}


def require_computes(
    file: Path,
    session: Session,
    stop: threading.Event | None = None,
    n_ctx: int = FEW,
    adapter: Path | None = None,
) -> SavedLogits | None:
    """Have llama.cpp load a file, memory-mapped and on the CPU, and evaluate the first `n_ctx` tokens of a text.

    Args:
        adapter: a GGUF adapter to load with it.

    Returns:
        The logits of their second half; None where llama.cpp can evaluate no text with it: of an encoder the embedding is
        looked at, a file without a vocabulary is only loaded and run.

    Raises:
        GgufError: it cannot be loaded, or its logits or embeddings are no numbers.
        ToolError: the tool failed for another reason.
    """
    header = read_header(file)
    if evaluates.is_encoder_of_text(header):
        _require_embeds(file, session, stop)
        return None
    if not (evaluates.generates(header) and evaluates.reads_text(header)):
        _require_runs(file, session, stop)
        return None
    logits = _evaluate(file, session, stop, n_ctx, [] if adapter is None else [Adapter(adapter)])
    if logits is None:
        _require_runs(file, session, stop)
    elif not logits.is_finite:
        message = f"llama.cpp computes no finite logits with {called(file)}."
        hint = "Its weights hold NaN or infinite values, or its sums exceed F16: try BF16 (--base-type or --type bf16)."
        raise GgufError(message, hint=hint)
    return logits


def settle_and_require_computes(partial: Path, session: Session) -> None:
    """Check a finished file while it is hashed and brought to the disk."""
    run_both(lambda stop: require_computes(partial, session, stop), lambda stop: settle(partial, stop))


def called(file: Path) -> str:
    """The name that a file has or will have."""
    return file.name.removesuffix(PARTIAL)


def _evaluate(
    file: Path, session: Session, stop: threading.Event | None, n_ctx: int, adapters: Sequence[Adapter]
) -> SavedLogits | None:
    session.workspace.scratch.mkdir(parents=True, exist_ok=True)
    saved = session.workspace.scratch / f"{called(file)}-{n_ctx}.logits"
    excerpt, compute = Excerpt(reference.PROBE, n_ctx), Compute(threads=session.threads)
    command = argv.first_logits(session.tools, file, saved, excerpt, compute)
    try:
        with _told(file, session):
            run = _run(
                [*command, *evaluates.overrides(file), *argv.adapters("--lora", adapters)], file, session, stop
            )
        try:
            return read_logits(saved)
        except ToolOutputError as error:
            raise ToolOutputError(f"{error.message[:-1]} for {called(file)}.", log=run.log) from error
    finally:
        saved.unlink(missing_ok=True)


def _told(file: Path, session: Session) -> AbstractContextManager[object]:
    """What takes more than a moment is told."""
    n_bytes = file.stat().st_size
    title, work = f"Loading {called(file)}", session.work("load", n_bytes)
    return timed(session.reporter, title, work) if n_bytes >= _LONG else nullcontext()


def _require_embeds(file: Path, session: Session, stop: threading.Event | None) -> None:
    """Of an encoder: the embedding of a few words is finite."""
    try:
        program = embedding_tool.find(session.tools, session.reporter)
    except ToolchainError:
        _require_runs(file, session, stop)
        return
    pooling = None if evaluates.is_pooled(read_header(file)) else "mean"
    compute = replace(Compute(threads=session.threads), batch=ROOM, ubatch=ROOM)
    command = argv.embedding(program, file, _WORDS, compute, ROOM, pooling=pooling)
    require_finite(lambda: _run(command, file, session, stop), called(file))


def _require_runs(file: Path, session: Session, stop: threading.Event | None) -> None:
    """Where no text can be evaluated: llama-bench takes tokens at random."""
    compute = replace(Compute(threads=session.threads), batch=FEW, ubatch=FEW)
    command = argv.bench(session.tools, file, compute, argv.Timing(FEW, 0, 1))
    _run([*command, "-v"], file, session, stop)  # else it does not say why a file is not loaded


def _run(command: list[str], file: Path, session: Session, stop: threading.Event | None) -> ToolOutput:
    log = session.workspace.log(f"load-{called(file).removesuffix('.gguf')}")
    where = Surroundings({**cuda.HIDDEN.env, **offload.environment(), **_PLAIN})
    run = process.run(command, log=log, surroundings=where, cancel=stop)
    if run.returncode != 0:
        raise _failure(run, file)
    return run


def _failure(run: ToolOutput, file: Path) -> Exception:
    """What llama.cpp refuses is the file's fault; what ends it otherwise is not."""
    why = load_errors.why_not_loaded(run.text)
    if why is not None and "allocate" in why:
        hint = "Close other programs, or use a machine with more memory."
        return ResourceError(f"Memory is too small to load {called(file)}: {why}.", hint=hint, log=run.log)
    if why is None or run.returncode not in (1, -signal.SIGABRT):
        return failures.explain(run, f"loading {called(file)}", why)
    message = f"llama.cpp cannot load {called(file)}: {why}."
    hint = "What it was made from does not fit together: tensors and configuration are of different models."
    if "tokenizer merges" in why:
        hint = "The checkpoint's tokenizer has no merges: take tokenizer.json from the base model."
    if why.startswith("unknown"):
        hint = "A newer llama.cpp may know it: set GGUFKIT_LLAMA_CPP to its build directory."
    return GgufError(message, hint=hint, log=run.log)
