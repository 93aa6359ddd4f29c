"""How far a sweep is, as its journal tells it."""

from __future__ import annotations

import pytest

from ggufkit.sweep import journal
from ggufkit.sweep.journal import Driver
from ggufkit.sweep.places import file_name
from ggufkit.sweep.records import Event, Job, Outcome
from ggufkit.sweep.status import Board, words

TYPES = ("Q4_K_M", "Q8_0")


def jobs(cell: str) -> list[Job]:
    return [Job(cell, "fetch"), Job(cell, "base"), *(Job(cell, "quantize", "plain", t) for t in TYPES)]


def started(job: str, worker: str = "w1", at: float = 0.0) -> Event:
    return Event(at, "started", job, text=worker)


def ended(job: str, state: str = "done", seconds: float = 10.0, because: str = "", at: float = 0.0) -> Event:
    message = "It broke." if state == "failed" else ""
    return Event(at, "ended", job, Outcome(job, state, "w1", seconds, message=message, because=because))


def begun(*cells: str, at: float = 0.0) -> list[Event]:
    began = Event(at, "sweep", text=journal.began(Driver("here", 7)).text)
    return [began, *(Event(at, "planned", cell, text=journal.planned(cell, jobs(cell)).text) for cell in cells)]


def test_models_by_stages() -> None:
    board = Board([
        *begun("a", "b", "c"),
        *(ended(job.id) for job in jobs("a")),
        ended("b|fetch||", "fresh", 0.0), started("b|base||"),
    ])  # fmt: skip
    assert [(line.cell, line.is_done, line.is_waiting) for line in board.lines] == [
        ("a", True, False), ("b", False, False), ("c", False, True),
    ]  # fmt: skip
    assert board.stages == ["fetch", "base", "quantize"]
    whole = board.whole
    assert (whole.total, whole.done, whole.running, whole.left) == (12, 5, 1, 7)
    assert [(one.job, one.worker) for one in board.running] == [("b|base||", "w1")]
    assert board.driver == Driver("here", 7)


def test_what_failed_and_what_that_kept_from_being_done() -> None:
    board = Board(begun("a"))
    for event in (
        ended("a|fetch||"), started("a|base||"), ended("a|base||", "failed"),
        *(ended(f"a|quantize|plain|{t}", "skipped", because="a|base||") for t in TYPES),
    ):  # fmt: skip
        board.hear(event)
    (failed,) = board.failures
    assert (failed.job, failed.message, board.skipped[failed.job]) == ("a|base||", "It broke.", 2)
    (line,) = board.lines
    assert (line.is_done, line.whole.left, line.whole.failed) == (False, 0, 3)


@pytest.mark.parametrize(
    "end", [Event(5.0, "lost", text="w1"), Event(5.0, "retried", "a|base||"), Event(5.0, "stopped")]
)
def test_nothing_runs_on_a_worker_that_was_lost(end: Event) -> None:
    board = Board([*begun("a"), started("a|base||"), end])
    assert (board.running, board.whole.running, board.whole.left) == ([], 0, 4)


def test_a_job_that_is_done_again_counts_once_and_a_sweep_that_goes_on_begins_anew() -> None:
    board = Board([*begun("a"), ended("a|base||", "failed"), started("a|base||"), ended("a|base||")])
    assert (board.whole.total, board.whole.done, board.failures) == (4, 1, [])
    for event in [Event(8.0, "finished"), *begun("a", at=9.0)]:
        board.hear(event)
    assert (board.whole.done, board.end, board.started) == (0, "", 9.0)


def test_what_is_left_by_what_jobs_took_and_how_many_ran_at_once() -> None:
    board = Board(begun("a", "b"))
    assert board.seconds_left(10.0) is None
    for job in jobs("a"):
        board.hear(ended(job.id, seconds=10.0))
    assert board.seconds_left(40.0) == pytest.approx(40.0)  # one at a time, four to come
    assert board.seconds_left(20.0) == pytest.approx(20.0)  # two at a time
    board.hear(
        Event(40.0, "planned", "c", text='{"fetch":1}')
    )  # nobody knows yet what else: as much as the others have
    assert board.seconds_left(40.0) == pytest.approx(80.0)


def test_jobs_as_words_and_as_names_of_files() -> None:
    assert words("quick/m|quantize|imatrix|Q4_K_M") == "quick/m: quantize imatrix Q4_K_M"
    assert file_name("quick/m|quantize|awq+imatrix|Q4_K_M") == "quick/m/quantize-awq+imatrix-Q4_K_M"
    odd, other = (file_name(f"m|quantize|plain|recipe:{name}.yaml") for name in ("a/b", "a:b"))
    assert odd.startswith("m/quantize-plain-recipe_a_b.yaml-")
    assert odd != other
