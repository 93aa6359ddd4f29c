"""What a job asks of workers, and what is told where none has it."""

from __future__ import annotations

import time

import pytest

from ggufkit.sweep.offers import Offers
from ggufkit.sweep.station import CHECKED, CPU, DISK, GPU, HEAVY, MEMORY

SMALL = {CHECKED: 1000.0, HEAVY: 1.0, CPU: 1.0, MEMORY: 8e9, DISK: 2e12}
LARGE = {**SMALL, CPU: 0.0, GPU: 1.0, MEMORY: 64e9, DISK: 1e12}
JOB = {CHECKED: 1.0, HEAVY: 1.0}


@pytest.fixture
def moment(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which passes as a test says."""
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_a_job_asks_for_no_more_than_the_largest_worker_has() -> None:
    both = Offers(lambda: [SMALL, LARGE])
    assert both.asked({**JOB, MEMORY: 16e9, DISK: 1.5e12}) == {**JOB, MEMORY: 16e9, DISK: 1.5e12}
    assert both.short({MEMORY: 16e9}) == ""
    assert both.asked({**JOB, MEMORY: 100e9}) == {**JOB, MEMORY: 64e9}
    told = both.short({MEMORY: 100e9, DISK: 3e12})
    assert "93.1 GiB of memory, of which no worker has more than 59.6 GiB and" in told


def test_what_nobody_offers_is_not_asked_for_unless_it_is_a_kind_of_worker() -> None:
    plain = Offers(lambda: [{CHECKED: 1000.0, HEAVY: 1.0}])
    assert plain.asked({**JOB, MEMORY: 1e9, GPU: 1.0}) == {**JOB, GPU: 1.0}


@pytest.mark.parametrize("workers", [[], [{MEMORY: 1.0}]])
def test_without_workers_all_is_asked_for(workers: list[dict[str, float]]) -> None:
    none = Offers(lambda: workers)
    assert none.asked({**JOB, MEMORY: 1e9}) == {**JOB, MEMORY: 1e9}
    assert none.short({MEMORY: 1e9}) == ""
    assert none.missing([{GPU: 1.0}]) == []


def test_a_worker_that_is_gone_took_its_memory_with_it(moment: list[float]) -> None:
    workers = [SMALL, LARGE]
    known = Offers(lambda: workers)
    assert not known.is_beyond({MEMORY: 16e9})
    workers.remove(LARGE)
    moment[0] = 6.0
    assert known.is_beyond({MEMORY: 16e9})
    assert not known.is_beyond({MEMORY: 8e9})


def test_a_kind_of_worker_that_is_missing_for_long_is_told_once(moment: list[float]) -> None:
    workers = [SMALL]
    known = Offers(lambda: workers)
    waiting = [{**JOB, GPU: 1.0}, {**JOB, GPU: 1.0}, {**JOB, CPU: 1.0}]
    assert known.missing(waiting) == []
    moment[0] = 31.0
    (told,) = known.missing(waiting)
    assert told.startswith("2 jobs wait for a worker with a GPU, and there is none.")
    moment[0] = 62.0
    assert known.missing(waiting) == []
    workers.append(LARGE)
    moment[0] = 93.0
    assert known.missing(waiting) == []
    workers.remove(LARGE)
    for moment[0] in (99.0, 131.0):
        again = known.missing(waiting[:1])
    assert again == [told.replace("2 jobs wait", "A job waits")]
