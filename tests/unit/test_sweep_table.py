"""A sweep on a screen: 80 columns, however many models, and nothing in their names acts."""

from __future__ import annotations

import io
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from ggufkit.cli import sweep_table
from ggufkit.cli.terminal import Screen
from ggufkit.sweep import journal
from ggufkit.sweep.journal import Driver
from ggufkit.sweep.places import Places
from ggufkit.sweep.records import STAGES, Event, Job, Outcome
from ggufkit.sweep.status import Board

COUNTS = {"scale": 2, "quantize": 24, "refine": 12, "measure": 120, "speak": 24, "tasks": 24, "bench": 24}


def jobs(cell: str, stages: Sequence[str] = STAGES) -> list[Job]:
    return [Job(cell, stage, "imatrix", f"Q{i}") for stage in stages for i in range(COUNTS.get(stage, 1))]


def board(n: int, stages: Sequence[str] = STAGES, dashboard: str = "http://127.0.0.1:8787/status") -> Board:
    """Half of the models done, a tenth at work, one of them with a failure, the others waiting."""
    names = [
        "qwen2.5-0.5b-instruct-with-a-long-name",
        *(f"quick/model-number-{i}" for i in range(n - 2)),
        "evil\x1b[31m",
    ]
    found = Board([journal.began(Driver("here", 7, dashboard))])
    found.started = 20.0
    for i, name in enumerate(names):
        planned = jobs(name, stages)
        found.hear(journal.planned(name, planned))
        ended = len(planned) if i < n * 0.5 else 9 if i < n * 0.6 else 0
        for job in planned[:ended]:
            found.hear(journal.ended(Outcome(job.id, "done", "w1", 12.0)))
        if 0 < ended < len(planned):
            found.hear(Event(100.0, "started", planned[ended].id, text="w1"))
    return found


def drawn(found: Board, most: int = 12) -> str:
    out = io.StringIO()
    screen = Screen(file=out, width=80, highlight=False, markup=False)
    for part in sweep_table.parts(found, 200.0, 80, most):
        screen.print(part)
    return out.getvalue()


@pytest.mark.parametrize(
    ("n", "stages"), [(4, STAGES), (40, STAGES), (40, ("fetch", "base", "quantize", "finish"))]
)
def test_it_fits_into_80_columns(n: int, stages: Sequence[str]) -> None:
    text = drawn(board(n, stages))
    assert all(len(line) <= 80 for line in text.splitlines()), text
    assert len(text.splitlines()) <= 12 + 1 + 4 + 2
    assert "\x1b" not in text


def test_of_many_models_those_at_work_are_shown() -> None:
    lines = drawn(board(40)).splitlines()
    assert [line.strip() for line in lines if line.strip().endswith(("done", "waiting"))] == [
        "20 done",
        "16 waiting",
    ]
    assert sum("4/24" in line for line in lines) == 4
    assert "…" in lines[1]
    assert lines[-2].startswith("4,716 of 9,360 jobs · after 3 min · ")
    assert lines[-1] == "Dask's dashboard: http://127.0.0.1:8787/status"


def test_a_drawing_that_takes_long_is_not_made_at_once_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep_table, "_REST", 1e9)
    found, out = board(4), io.StringIO()
    drawing = sweep_table.Drawing(found, threading.Lock())
    screen = Screen(file=out, width=80, height=24, highlight=False, markup=False)
    screen.print(drawing)
    first = out.getvalue()
    found.hear(journal.ended(Outcome("new|fetch||", "done", "w1", 1.0)))
    screen.print(drawing)
    assert " jobs · " in first
    assert out.getvalue() == first * 2


def test_names_do_not_act_and_long_ones_lose_their_middle() -> None:
    text = drawn(board(4))
    assert "evil\\x1b[31m" in text
    assert any(line.startswith("qwen2.") and "…" in line.split()[0] for line in text.splitlines())


def test_what_failed_and_why_in_one_table(tmp_path: Path) -> None:
    found = board(4)
    message = "llama-quantize ended with signal 9, and nobody knows why it would do \x1b[2J such a thing."
    found.hear(
        journal.ended(Outcome("quick/m|base||", "failed", "w1", message=message, hint="Give it more memory."))
    )
    found.hear(journal.ended(Outcome("quick/m|quantize|plain|Q8_0", "skipped", because="quick/m|base||")))
    out = io.StringIO()
    screen = Screen(file=out, width=80, highlight=False, markup=False)
    for part in sweep_table.closing(found, Places(tmp_path)):
        screen.print(part, soft_wrap=part == f"Logs: {tmp_path}/.ggufkit/sweep/logs")
    text = " ".join(out.getvalue().split())
    assert "1 of 938 jobs failed: quick/m: base" in text
    assert "\x1b" not in text
    assert "1 job behind it could" in text
    assert f"Logs: {tmp_path}/.ggufkit/sweep/logs" in text
    assert not list(sweep_table.closing(board(4), Places(tmp_path)))


def test_lines_where_nobody_watches(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with sweep_table.watching(Places(tmp_path)) as hear:
        hear(journal.began(Driver("here", 7, "http://127.0.0.1:8787/status")))
        hear(journal.ended(Outcome("m|fetch||", "fresh")))
        hear(journal.ended(Outcome("m|base||", "done", "w1", 3.0)))
        hear(journal.ended(Outcome("m|finish||", "failed", "w1", message="It broke.")))
    said = capsys.readouterr().err.splitlines()
    assert said[:3] == [
        "Dask's dashboard: http://127.0.0.1:8787/status",
        "✓ m: base 3.0 s on w1",
        "✗ m: finish: It broke.",
    ]
    assert said[3] == "1 of 3 jobs failed:"


def test_a_warning_is_said_once_while_there_is_time_to_heed_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "2 jobs wait for a worker with a GPU, and none takes jobs."
    found = board(2)
    with sweep_table.watching(Places(tmp_path)) as hear:
        hear(journal.began(Driver("here", 7)))
        for job in ("", "m|base||"):
            hear(Event(0.0, "warned", job, text=text))
            found.hear(Event(0.0, "warned", job, text=text))
        said = capsys.readouterr().err.splitlines()
    assert said == [f"Warning: {text}"]
    assert f"Warning: {text}" in drawn(found)
