"""Jobs at once: in order, each in a slot of its own, and an error ends it."""

from __future__ import annotations

import os
import signal
import threading
import time
from functools import partial

import pytest

from ggufkit.core import process
from ggufkit.core.concurrency import (
    Job,
    Task,
    background,
    makers_at_once,
    run_both,
    run_in_slots,
    run_linked,
    run_processes,
    worker_pool,
)
from ggufkit.core.errors import CheckpointError, Interrupted, ToolError
from ggufkit.core.process import ToolOutput


def test_results_are_in_order_and_slots_are_never_shared() -> None:
    busy: set[str] = set()
    most: list[int] = []

    def job(number: int, slot: str) -> int:
        assert slot not in busy
        busy.add(slot)
        most.append(len(busy))
        time.sleep(0.01)
        busy.remove(slot)
        return number

    assert run_in_slots([partial(job, i) for i in range(12)], ["a", "b", "c"]) == list(range(12))
    assert max(most) == 3


def test_an_error_is_raised_and_nothing_further_begins() -> None:
    begun: list[int] = []

    def job(number: int, _: None) -> None:
        begun.append(number)
        if number == 0:
            raise ToolError("failed")
        time.sleep(0.05)

    with pytest.raises(ToolError, match="failed"):
        run_in_slots([partial(job, i) for i in range(50)], [None, None])
    assert len(begun) < 10


def test_what_runs_is_finished_when_the_main_thread_fails() -> None:
    finished = threading.Event()

    def slow() -> None:
        time.sleep(0.1)
        finished.set()

    def fail() -> None:
        with worker_pool(1) as pool:
            pool.submit(slow)
            time.sleep(0.02)
            raise ValueError("other")

    with pytest.raises(ValueError, match="other"):
        fail()
    assert finished.is_set()


def test_makers() -> None:
    assert [makers_at_once(n) for n in (1, 2, 4, 16)] == [1, 1, 1, 4]


def wait_for(stop: threading.Event) -> None:
    """What a tool or a long read does when it is ended."""
    assert stop.wait(timeout=10)
    raise Interrupted("ended")


def test_what_linked_jobs_return_is_in_order() -> None:
    def job(number: int, _: threading.Event) -> int:
        time.sleep(0.01 * (5 - number))
        return number

    assert run_linked([partial(job, i) for i in range(5)]) == list(range(5))
    assert run_linked([]) == []
    assert run_both(lambda _: "made", lambda _: 7) == ("made", 7)


def test_no_more_linked_jobs_at_once_than_asked_for() -> None:
    running: set[int] = set()
    most: list[int] = []

    def job(number: int, _: threading.Event) -> None:
        running.add(number)
        most.append(len(running))
        time.sleep(0.01)
        running.remove(number)

    run_linked([partial(job, i) for i in range(9)], at_once=3)
    assert max(most) == 3


def failing(_: threading.Event) -> None:
    raise CheckpointError("NaN weights")


def failing_soon(_: threading.Event) -> None:
    time.sleep(0.1)
    raise CheckpointError("NaN weights")


@pytest.mark.parametrize(
    "jobs",
    [
        [wait_for, failing, wait_for],
        [failing, wait_for],
        [lambda _: None, failing],
        [failing, lambda _: None],
        [wait_for, failing_soon],
        [lambda _: None, wait_for, failing_soon],
    ],
)
def test_who_failed_first_is_who_is_named(jobs: list[Job[None]]) -> None:
    with pytest.raises(CheckpointError, match="NaN weights"):
        run_linked(jobs)


def test_after_a_failure_none_is_begun() -> None:
    begun: list[int] = []

    def job(number: int, _: threading.Event) -> None:
        begun.append(number)
        if number == 0:
            raise CheckpointError("NaN weights")

    with pytest.raises(CheckpointError, match="NaN weights"):
        run_linked([partial(job, i) for i in range(50)], at_once=1)
    assert begun == [0]


def test_what_does_not_end_is_left() -> None:
    """As a download from a server that stalls."""
    over = threading.Event()
    started = time.monotonic()
    with pytest.raises(CheckpointError, match="NaN weights"):
        run_linked([failing, lambda _: over.wait(20)], patience_s=0.1)
    assert time.monotonic() - started < 5
    over.set()


def test_interrupted_by_the_user() -> None:
    def run(_: threading.Event) -> None:
        raise Interrupted("the user")

    with pytest.raises(Interrupted, match="the user"):
        run_linked([run, wait_for])
    with pytest.raises(Interrupted, match="the user"):
        run_linked([lambda _: None, run])


def test_when_the_user_interrupts_all_are_told_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Ctrl-C while the main thread waits."""
    begun, ended, stopped = threading.Event(), threading.Event(), threading.Event()
    monkeypatch.setattr(process, "stop_all", stopped.set)

    def long(stop: threading.Event) -> None:
        begun.set()
        assert stop.wait(timeout=10)
        ended.set()

    def interrupt(stop: threading.Event) -> None:
        assert begun.wait(timeout=10)
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.wait(timeout=10)

    with pytest.raises(KeyboardInterrupt):
        run_linked([interrupt, long])
    assert ended.is_set()
    assert stopped.is_set()


def test_a_job_beside_a_context_ends_with_it() -> None:
    ended = threading.Event()

    def job(stop: threading.Event) -> None:
        assert stop.wait(10)
        ended.set()

    with background(job):
        assert not ended.is_set()
    assert ended.is_set()


def test_whatever_ends_the_carrier_ends_the_processes() -> None:
    def carry(_stop: threading.Event) -> None:
        raise MemoryError("no room for a block")

    def run(stop: threading.Event) -> ToolOutput:
        assert stop.wait(20)
        raise Interrupted("stopped")

    with pytest.raises(MemoryError, match="no room"):
        run_processes([Task("waiting", run)], carry)
