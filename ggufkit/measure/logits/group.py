"""Processes that depend on each other run at once: when one dies, all end, and the error names the one that died."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ggufkit.core import failures
from ggufkit.core.errors import Interrupted, ToolError
from ggufkit.core.process import ToolOutput

_GRACE_S, _SETTLE_S = 1.0, 0.3


@dataclass(frozen=True)
class Task:
    """One process: what it is doing, in words, and how to run it until it ends or the event is set."""

    doing: str
    run: Callable[[threading.Event], ToolOutput]


@dataclass
class _Outcome:
    task: Task
    output: ToolOutput | None = None
    error: BaseException | None = None
    ended: float = 0.0


def run_together(tasks: Sequence[Task], carry: Callable[[threading.Event], None]) -> list[ToolOutput]:
    """Run all tasks at once, with `carry` in a thread of its own beside them.

    Args:
        carry: moves data between the tasks. When it fails, one of them has gone away.

    Returns:
        What each printed, all of them having ended with exit code 0.

    Raises:
        ToolError: one died or failed; the others were ended within seconds.
        Interrupted: ggufkit is stopping.
    """
    cancel = threading.Event()
    outcomes = [_Outcome(task) for task in tasks]
    threads = [threading.Thread(target=_run, args=(outcome, cancel), daemon=True) for outcome in outcomes]
    carrier = threading.Thread(target=_carry, args=(carry, cancel), daemon=True)
    for thread in [*threads, carrier]:
        thread.start()
    try:
        while any(thread.is_alive() for thread in threads):
            for thread in threads:
                thread.join(timeout=0.1)
    finally:
        # Reached early on Ctrl-C: every process is ended before the pipes are removed.
        cancel.set()
        for thread in [*threads, carrier]:
            thread.join()
    return _collect(outcomes)


def _run(outcome: _Outcome, cancel: threading.Event) -> None:
    try:
        outcome.output = outcome.task.run(cancel)
    except BaseException as error:
        outcome.error = error
    outcome.ended = time.monotonic()
    if outcome.error is not None or (outcome.output is not None and outcome.output.returncode != 0):
        # One that dies lets go of its pipes first: who fails for that may be heard before it is seen to be dead.
        cancel.wait(_SETTLE_S)
        cancel.set()


def _carry(carry: Callable[[threading.Event], None], cancel: threading.Event) -> None:
    try:
        carry(cancel)
    except OSError:
        # The process that went away says more than the broken pipe does: let it be heard first.
        cancel.wait(_GRACE_S)
        cancel.set()


def _collect(outcomes: Sequence[_Outcome]) -> list[ToolOutput]:
    outputs = [o.output for o in outcomes if o.output is not None and o.output.returncode == 0]
    if len(outputs) == len(outcomes):
        return outputs
    for outcome in outcomes:
        if outcome.error is not None and not isinstance(outcome.error, Interrupted):
            raise outcome.error
    culprit = min(outcomes, key=_innocence)
    if culprit.output is None:
        raise culprit.error or Interrupted("The evaluation was stopped.")
    if culprit.output.returncode == 0:
        raise ToolError(
            f"llama-perplexity ended too early while {culprit.task.doing}: {_last_line(culprit.output)}",
            hint="Repeat the command; what was finished is kept.",
            log=culprit.output.log,
        )
    raise failures.explain(culprit.output, culprit.task.doing)


def _innocence(outcome: _Outcome) -> tuple[int, float]:
    """Low for the process whose end explains that of the others.

    A broken pipe, an early end of input and being stopped are consequences.
    """
    if outcome.output is None:
        return 4, outcome.ended
    code = outcome.output.returncode
    rank = {0: 2, -int(getattr(signal, "SIGPIPE", 13)): 3}.get(code, 0 if code < 0 else 1)
    return rank, outcome.ended


def _last_line(output: ToolOutput) -> str:
    lines = [line.strip() for line in output.text.splitlines() if line.strip()]
    return (lines or ["it printed nothing"])[-1][:200]
