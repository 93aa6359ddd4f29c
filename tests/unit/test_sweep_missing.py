"""What is told where jobs wait for a kind of worker that there is none of."""

from __future__ import annotations

import time

import pytest

from ggufkit.sweep.missing import Missing
from ggufkit.sweep.station import CPU, GPU, HEAVY

SMALL = {HEAVY: 1.0, CPU: 1.0}
LARGE = {**SMALL, CPU: 0.0, GPU: 1.0}
JOB = {HEAVY: 1.0}


@pytest.fixture
def moment(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which passes as a test says."""
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_that_no_worker_is_there_is_told_where_jobs_wait(moment: list[float]) -> None:
    none, idle = Missing(), Missing()
    for moment[0] in (0.0, 31.0):
        told = none.told([], [{GPU: 1.0}, JOB])
        assert idle.told([], []) == []
    assert told == [
        "2 jobs wait for workers, and none takes jobs. Start one, or stop the sweep: what was finished is kept."
    ]


def test_a_kind_of_worker_that_is_missing_for_long_is_told_once(moment: list[float]) -> None:
    workers = [SMALL]
    known = Missing()
    waiting = [{**JOB, GPU: 1.0}, {**JOB, GPU: 1.0}, {**JOB, CPU: 1.0}]
    assert known.told(workers, waiting) == []
    moment[0] = 31.0
    (told,) = known.told(workers, waiting)
    assert told.startswith("2 jobs wait for a worker with a GPU, and none takes jobs.")
    moment[0] = 62.0
    assert known.told(workers, waiting) == []
    workers.append(LARGE)
    moment[0] = 93.0
    assert known.told(workers, waiting) == []
    workers.remove(LARGE)
    for moment[0] in (99.0, 131.0):
        again = known.told(workers, waiting[:1])
    assert again == [told.replace("2 jobs wait", "A job waits")]
