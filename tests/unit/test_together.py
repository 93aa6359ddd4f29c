"""Jobs at once: in order, each in a slot of its own, and an error ends it."""

from __future__ import annotations

import threading
import time
from functools import partial

import pytest

from ggufkit.core import process
from ggufkit.core.concurrency import beside, crew, makers_at_once, run_all
from ggufkit.core.errors import CheckpointError, Interrupted, ToolError


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

    assert run_all([partial(job, i) for i in range(12)], ["a", "b", "c"]) == list(range(12))
    assert max(most) == 3


def test_an_error_is_raised_and_nothing_further_begins() -> None:
    begun: list[int] = []

    def job(number: int, _: None) -> None:
        begun.append(number)
        if number == 0:
            raise ToolError("failed")
        time.sleep(0.05)

    with pytest.raises(ToolError, match="failed"):
        run_all([partial(job, i) for i in range(50)], [None, None])
    assert len(begun) < 10


def test_what_runs_is_finished_when_the_main_thread_fails() -> None:
    finished = threading.Event()

    def slow() -> None:
        time.sleep(0.1)
        finished.set()

    def fail() -> None:
        with crew(1) as workers:
            workers.give(slow)
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


def test_beside_other_work() -> None:
    seen: list[str] = []
    assert beside(lambda _: "made", [lambda _: seen.append("checked"), lambda _: seen.append("hashed")]) == "made"
    assert sorted(seen) == ["checked", "hashed"]
    assert beside(lambda _: 7, []) == 7


def failing(_: threading.Event) -> None:
    raise CheckpointError("NaN weights")


def test_who_failed_first_is_who_is_named() -> None:
    with pytest.raises(CheckpointError, match="NaN weights"):
        beside(wait_for, [failing, wait_for])
    with pytest.raises(CheckpointError, match="NaN weights"):
        beside(failing, [wait_for])
    with pytest.raises(CheckpointError, match="NaN weights"):
        beside(lambda _: "made", [failing])


def test_interrupted_by_the_user() -> None:
    def run(_: threading.Event) -> None:
        raise Interrupted("the user")

    with pytest.raises(Interrupted, match="the user"):
        beside(run, [wait_for])


def test_a_late_failure_is_named_and_an_interruption_passed_on() -> None:
    """Also when what runs here has ended."""
    with pytest.raises(CheckpointError, match="NaN weights"):
        beside(lambda _: "made", [wait_for, failing])
    begun, ended = threading.Event(), threading.Event()

    def long(stop: threading.Event) -> None:
        begun.set()
        if stop.wait(timeout=10):
            ended.set()

    def interrupt(_: threading.Event) -> None:
        """As Ctrl-C while the main thread waits."""
        begun.wait(timeout=10)
        raise KeyboardInterrupt

    try:
        with pytest.raises(KeyboardInterrupt):
            beside(lambda _: "made", [interrupt, long])
    finally:
        process._stopping.clear()
    assert ended.is_set()
