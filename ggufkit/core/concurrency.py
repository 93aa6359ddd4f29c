"""Several jobs of one command at once: on the processors of one machine, or on its GPUs."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

from ggufkit.core import process
from ggufkit.core.errors import Interrupted

T = TypeVar("T")
S = TypeVar("S")


CORES_PER_MAKER = 4


def makers_at_once(threads: int) -> int:
    """How many files are quantized at once. llama-quantize reads, rounds and writes in turns: few cores are enough."""
    return max(1, threads // CORES_PER_MAKER)


class Crew:
    """Workers; what they were given is done in the order it was given, so many jobs at once."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self._pool = pool
        self._given: list[Future[object]] = []

    def give(self, job: Callable[[], T]) -> Future[T]:
        """Have a job done some time soon."""
        future = self._pool.submit(job)
        self._given.append(future)  # type: ignore[arg-type]
        return future

    def give_up(self) -> None:
        """Forget the jobs that were not begun."""
        for future in self._given:
            future.cancel()


@contextmanager
def crew(size: int) -> Iterator[Crew]:
    """Workers for the length of a context.

    When it ends with an error, what was not begun is dropped; what runs is finished, so that its result is kept. When
    the user interrupts it, the tools that run are ended first.
    """
    with ThreadPoolExecutor(max(1, size)) as pool:
        workers = Crew(pool)
        try:
            yield workers
        except Exception:
            workers.give_up()
            raise
        except BaseException:
            workers.give_up()
            process.stop_all()
            raise


def beside(run: Callable[[threading.Event], T], jobs: Sequence[Callable[[threading.Event], object]]) -> T:
    """Run something here and jobs in threads beside it; each is given an event that ends it, set when another fails.

    Returns:
        What `run` returns, all jobs having ended well.

    Raises:
        The error of the one that failed: being ended for that is none.
    """
    stop = threading.Event()

    def guarded(job: Callable[[threading.Event], object]) -> None:
        try:
            job(stop)
        except BaseException:
            stop.set()
            raise

    with crew(len(jobs)) as workers:
        others = [workers.give(partial(guarded, job)) for job in jobs]
        try:
            result = run(stop)
            for other in others:
                other.result()
            return result
        except BaseException as error:
            stop.set()
            raise _cause(error, others) from None


def _cause(error: BaseException, others: Sequence[Future[None]]) -> BaseException:
    """The error of a job that ended the others; `error` itself where it was the first."""
    if not isinstance(error, Interrupted):
        return error
    found = [other.exception() for other in others]
    return next((e for e in found if e is not None and not isinstance(e, Interrupted)), error)


def run_all(jobs: Sequence[Callable[[S], T]], slots: Sequence[S]) -> list[T]:
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

    with crew(len(slots)) as workers:
        futures = [workers.give(lambda job=job: run(job)) for job in jobs]  # type: ignore[misc]
        return [future.result() for future in futures]
