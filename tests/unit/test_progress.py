"""What is told of work: how far it is, what is left, and warnings once."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ggufkit.cli import terminal
from ggufkit.core import durations, expected
from ggufkit.core.durations import Work
from ggufkit.core.progress import OneOfMany, Progress, SilentReporter, grouped

WORK = Work("work", 1)
BUSY = "The machine is busy: {}. Repeat it."


def test_warnings_of_a_kind_are_one_and_none_is_repeated() -> None:
    said = ["a", OneOfMany(BUSY, "x.gguf"), "b", "a", OneOfMany(BUSY, "y.gguf"), OneOfMany(BUSY, "x.gguf")]
    assert grouped(said) == ["a", "The machine is busy: x.gguf, y.gguf. Repeat it.", "b"]
    many = [OneOfMany(BUSY, f"{i} (5%, 6%)") for i in range(12)]
    (one,) = grouped(many)
    assert "0 (5%, 6%); 1 (5%, 6%)" in one
    assert one.endswith("; 4 more. Repeat it.")


def test_where_nobody_groups_them_each_is_a_sentence() -> None:
    reporter = SilentReporter()
    reporter.warn(OneOfMany(BUSY, "{}"))
    assert reporter.warnings == ["The machine is busy: {}. Repeat it."]


def test_the_terminal_says_at_the_end_what_is_said_of_many(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    with terminal.reporting() as reporter:
        for name in ("x", "y"):
            reporter.warn(OneOfMany(BUSY, name))
            reporter.warn("No room.")
        reporter.info("Later.")
    assert capsys.readouterr().err.splitlines() == [
        "Warning: No room.", "Later.", "Warning: The machine is busy: x, y. Repeat it.",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("done", "total", "note", "seconds", "shown"),
    [
        (7, 41, "12 min left", 300, "7/41 · 12 min left"),
        (10, 40, "chunks", 60, "10/40 chunks · 3 min left"),
        (10, 40, "chunks", 1, "10/40 chunks"),
        (45, 100, "%", 9, "45 % · 10 s left"),
        (0, 6, "layers", 60, "0/6 layers"),
        (0, None, "", 12, "12 s"),
        (4, 6, "blk.4.attn_q.weight, 10 s left", 20, "4/6 · blk.4.attn_q.weight, 10 s left"),
    ],
)
def test_how_far_a_step_is(done: float, total: float | None, note: str, seconds: float, shown: str) -> None:
    assert terminal.state(done, total, note, seconds) == shown


def test_a_step_that_does_not_tell_is_told_by_its_usual_time(
    private_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = list[tuple[float, float | None, str]]()

    class Watching(SilentReporter):
        @contextmanager
        def step(self, title: str, total: float | None = None) -> Iterator[Progress]:
            assert (title, total) == ("Working", 100 if durations.known().estimate(WORK) else None)
            yield Watched()

    class Watched:
        def update(self, done: float, total: float | None = None, note: str = "") -> None:
            told.append((done, total, note))

    monkeypatch.setattr(expected, "_EVERY_S", 0.01)
    with expected.timed(Watching(), "Working", WORK):
        time.sleep(0.05)
    assert told == [], "it was never done before"
    with expected.timed(Watching(), "Working", WORK, remember=False):
        time.sleep(0.05)
    assert told
    assert all(0 < done <= 99 and (total, note) == (100, "%") for done, total, note in told)
