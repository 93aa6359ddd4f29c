"""llama-perplexity at work: its progress, texts that are too short for it, and the output that it loses."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence
from dataclasses import replace

from ggufkit.core import process
from ggufkit.core.errors import CorpusError
from ggufkit.core.process import Surroundings, ToolOutput
from ggufkit.llama import logs, special_tokens
from ggufkit.llama.progress_lines import ChunkCounter
from ggufkit.measure.shares import Share
from ggufkit.steps import offload
from ggufkit.steps.session import Session
from ggufkit.texts.corpus import Corpus

ATTEMPTS = 3
"""The tool prints from a thread that its exit does not wait for, so that the end of the output can be lost: of one
run in twenty under load, and of every second that is over in no time."""

_SHORT_S, _SHORT_ON_GPU_S = 60.0, 5.0


def pays_to_pin(seconds: float, session: Session) -> bool:
    """Whether to repeat a pass of that length on one processor: there the printing thread always keeps up.

    On a GPU no longer one: what takes the processors there, the sums over all logits, takes one of them far longer.
    """
    return seconds < (_SHORT_S if session.tools.backend == "cpu" else _SHORT_ON_GPU_S)


def run_tool(
    command: Sequence[str],
    title: str,
    log: str,
    session: Session,
    share: Share,
    cancel: threading.Event | None = None,
) -> ToolOutput:
    """Run llama-perplexity and report how many chunks it has done. A run that failed is returned like any other."""
    with contextlib.suppress(_Failed), session.reporter.step(title) as progress:
        counter = ChunkCounter()

        def watch(_stream: str, text: str) -> None:
            counter.feed(text)
            if counter.total:
                progress.update(counter.done, counter.total, "chunks")

        where = Surroundings({**offload.environment(), **share.environment}, cpus=share.cpus)
        ended = process.run(
            command, surroundings=where, log=session.workspace.log(log), on_text=watch, cancel=cancel
        )
        run = logs.ended_truly(ended)
        if run.returncode != 0:
            raise _Failed  # a step that ends so is not shown as done
    return run


class _Failed(Exception):
    """The tool ended badly."""


def reads(text: Corpus, share: Share, session: Session) -> Share:
    """What a process may use that reads a text itself: special tokens are parsed where the text is of chats."""
    return replace(share, variables=special_tokens.environment(session.reporter)) if text.special else share


def require_read(run: ToolOutput, text: Corpus) -> None:
    """Raise ToolchainError where special tokens of chats were read as plain text."""
    if text.special:
        special_tokens.require_parsed(run)


def refuse_short(run: ToolOutput, text: Corpus) -> None:
    """Raise CorpusError when the text was too short for the tool."""
    if logs.too_short(run.text):
        raise CorpusError(
            f"The text {text.path} is too short: {logs.explain_missing(run.text)}",
            hint="Give a longer text with --corpus, or a smaller --ctx.",
            log=run.log,
        )
