"""What is told of work: how far it is, what is left, and warnings once."""

from __future__ import annotations

import pytest

from ggufkit.cli import terminal
from ggufkit.core.progress import OneOfMany, SilentReporter, grouped

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
