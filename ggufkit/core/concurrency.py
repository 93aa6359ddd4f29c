"""Several jobs of one command at once, and whose failure counts when one fails.

All threads start here but those that read a tool's output, which belong to its process (`process`).
"""

from __future__ import annotations

import contextlib
import math
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from ggufkit.core import failures, process
from ggufkit.core.errors import Interrupted, ToolError
from ggufkit.core.process import ToolOutput
from ggufkit.core.progress import end_if

T = TypeVar("T")
S = TypeVar("S")
Job = Callable[[threading.Event], T]
"""Work that ends soon after its event is set."""

CORES_PER_MAKER = 4
_GRACE_S, _SETTLE_S, _LOOK_S = 1.0, 0.3, 0.2


def makers_at_once(threads: int) -> int:
    """How many files are quantized at once. llama-quantize reads, rounds and writes in turns: few cores are enough."""
    return max(1, threads // CORES_PER_MAKER)


@contextlib.contextmanager
def worker_pool(size: int) -> Iterator[Executor]:
    """Threads for the length of a context; what is submitted begins in that order, so many jobs at once.

    When it ends with an error, what was not begun is cancelled; what runs is finished, so that its result is kept. When
    the user interrupts it, the tools that run are ended first.
    """
    with ThreadPoolExecutor(max(1, size)) as pool:
        try:
            yield pool
        except BaseException as error:
            pool.shutdown(wait=False, cancel_futures=True)
            if not isinstance(error, Exception):
                process.stop_all()
            raise


def run_in_slots(jobs: Sequence[Callable[[S], T]], slots: Sequence[S]) -> list[T]:
    """Run jobs, each in a free slot, as many at once as there are slots.

    Returns:
        Their results, in order. If one fails, no further one is begun and its error is raised.
    """
    free: queue.SimpleQueue[S] = queue.SimpleQueue()
    for slot in slots:
        free.put(slot)

    def run(job: Callable[[S], T]) -> T:
        slot = free.get()
        try:
            return job(slot)
        finally:
            free.put(slot)

    with worker_pool(len(slots)) as pool:
        return list(pool.map(run, jobs))


@contextlib.contextmanager
def background(job: Job[object], stop: threading.Event | None = None) -> Iterator[None]:
    """Run a job in a thread beside the work of a context, the end of which ends it."""
    stop = stop or threading.Event()
    thread = threading.Thread(target=job, args=(stop,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def run_linked(jobs: Sequence[Job[T]], *, at_once: int | None = None, patience_s: float | None = None) -> list[T]:
    """Run jobs of which each is in vain without the others: when one fails, or the user interrupts them, all end.

    Args:
        at_once: how many run at the same time, None for all.
        patience_s: how long to wait for those that were told to end, None until they have. They are daemons:
            one that waits for a stalled server does not keep the process from ending.

    Returns:
        What they return, in order.

    Raises:
        The error that explains the others: being ended is none.
    """
    ends = _run_all(jobs, threading.Event(), at_once=at_once, patience_s=patience_s)
    failed = [end for end in ends if end.error is not None]
    return [_cause(failed).result()] if failed else [end.result() for end in ends]


def run_both(one: Job[S], other: Job[T]) -> tuple[S, T]:
    """Run two jobs that return different things; see `run_linked`."""
    jobs: list[Job[Any]] = [one, other]
    first, second = run_linked(jobs)
    return first, second


def run_within(seconds: float, call: Callable[[], T]) -> T:
    """What a call returns that may hang in ways that have no limit of their own, as a name's look-up has none.

    Raises:
        TimeoutError: it takes longer; it goes on in a daemon thread, and nobody waits for it.
    """
    ended: queue.SimpleQueue[_End[T]] = queue.SimpleQueue()
    threading.Thread(
        target=lambda: ended.put(_end_of(0, lambda _: call(), threading.Event())), daemon=True
    ).start()
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        with contextlib.suppress(queue.Empty):
            return ended.get(timeout=min(left, _LOOK_S)).result()
    raise TimeoutError(f"No end within {seconds:.0f} s.")


@dataclass(frozen=True)
class Task:
    """One process: what it is doing, in words, and how to run it until it ends or the event is set."""

    doing: str
    run: Job[ToolOutput]


def run_processes(tasks: Sequence[Task], carry: Job[object]) -> list[ToolOutput]:
    """Run processes that pass data to each other: when one dies, all end, and the error names the one that died.

    Args:
        carry: moves data between them, in a thread of its own. When it fails, one of them has gone away.

    Returns:
        What each printed, all of them having ended with exit code 0.

    Raises:
        ToolError: one died or failed; the others were ended within seconds.
        Interrupted: ggufkit is stopping.
    """
    stop, broken = threading.Event(), list[BaseException]()

    def carry_on(_stop: threading.Event) -> None:
        try:
            carry(stop)
        except OSError:
            # The process that went away says more than the broken pipe does: let it be heard first.
            stop.wait(_GRACE_S)
            stop.set()
        except BaseException as error:
            broken.append(error)
            stop.set()

    with background(carry_on, stop):
        ends = _run_all([partial(_run_well, task) for task in tasks], stop, settle_s=_SETTLE_S)
    if broken:
        raise broken[0]
    if all(end.error is None for end in ends):
        return [end.result() for end in ends]
    culprit = _cause(ends)
    doing = tasks[culprit.number].doing
    if isinstance(culprit.error, _BadExit):
        raise failures.explain(culprit.error.output, doing)
    raise _too_early(culprit.result(), doing)


class _BadExit(Exception):
    """A process ended with another exit code than 0."""

    def __init__(self, output: ToolOutput) -> None:
        self.output = output


def _run_well(task: Task, stop: threading.Event) -> ToolOutput:
    output = task.run(stop)
    if output.returncode != 0:
        raise _BadExit(output)
    return output


def _too_early(output: ToolOutput, doing: str) -> ToolError:
    said = next((line for line in reversed(output.text.splitlines()) if line.strip()), "it printed nothing")
    return ToolError(
        f"{Path(output.argv[0]).name} ended too early while {doing}: {said.strip()[:200]}",
        hint="Repeat the command; what was finished is kept.",
        log=output.log,
    )


@dataclass(frozen=True)
class _End(Generic[T]):
    """How the job of that number ended, and when (`time.monotonic()`)."""

    number: int
    value: T | None
    error: BaseException | None
    at_s: float

    def result(self) -> T:
        """What it returned; its error is raised."""
        if self.error is not None:
            raise self.error
        return cast("T", self.value)


def _run_all(
    jobs: Sequence[Job[T]],
    stop: threading.Event,
    *,
    at_once: int | None = None,
    settle_s: float = 0.0,
    patience_s: float | None = None,
) -> list[_End[T]]:
    """How all jobs ended, in that order; without those that nobody has the patience to wait for.

    Args:
        settle_s: how long a failure may be explained by another before all are told to end.
    """
    ended: queue.SimpleQueue[_End[T]] = queue.SimpleQueue()
    threads = _threads(jobs, stop, ended, min(at_once or len(jobs), len(jobs)), settle_s)
    try:
        for thread in threads:
            thread.start()
        return sorted(_collect(ended, len(jobs), patience_s), key=lambda end: end.number)
    except BaseException as error:
        stop.set()
        if patience_s is None:
            if not isinstance(error, Exception):
                process.stop_all()
            for thread in filter(threading.Thread.is_alive, threads):
                thread.join()
        raise


def _threads(
    jobs: Sequence[Job[T]],
    stop: threading.Event,
    ended: queue.SimpleQueue[_End[T]],
    n_threads: int,
    settle_s: float,
) -> list[threading.Thread]:
    todo: queue.SimpleQueue[tuple[int, Job[T]]] = queue.SimpleQueue()
    for item in enumerate(jobs):
        todo.put(item)

    def work() -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                end = _end_of(*todo.get_nowait(), stop)
                ended.put(end)
                if end.error is not None:
                    # One that dies lets go of its pipes first: who fails for that may be heard before it is seen to be dead.
                    stop.wait(settle_s)
                    stop.set()

    return [threading.Thread(target=work, daemon=True) for _ in range(n_threads)]


def _collect(ended: queue.SimpleQueue[_End[T]], n_jobs: int, patience_s: float | None) -> list[_End[T]]:
    ends, deadline = list[_End[T]](), math.inf
    while len(ends) < n_jobs and time.monotonic() < deadline:
        with contextlib.suppress(queue.Empty):
            end = ended.get(timeout=_LOOK_S)  # not longer: a signal that comes just before a wait does not end it
            ends.append(end)
            if end.error is not None and patience_s is not None:
                deadline = min(deadline, time.monotonic() + patience_s)
    return ends


def _end_of(number: int, job: Job[T], stop: threading.Event) -> _End[T]:
    value, error = None, None
    try:
        end_if(stop)
        value = job(stop)
    except BaseException as raised:
        error = raised
    return _End(number, value, error, time.monotonic())


def _cause(ends: Sequence[_End[T]]) -> _End[T]:
    """The end that explains the others: a broken pipe, an early end of input and being stopped are consequences."""
    return min(ends, key=lambda end: (_innocence(end.error), end.at_s))


def _innocence(error: BaseException | None) -> int:
    """Low for what is the cause, and not a consequence, of other ends; None stands for an end that came too early."""
    if error is None:
        return 3
    if isinstance(error, Interrupted):
        return 5
    if not isinstance(error, _BadExit):
        return 0
    code = error.output.returncode
    if code == -int(getattr(signal, "SIGPIPE", 13)):
        return 4
    return 1 if code < 0 else 2
