"""The journal of a sweep: what is appended is read, also after a driver that was killed while it wrote."""

from __future__ import annotations

from pathlib import Path

from ggufkit.sweep import journal
from ggufkit.sweep.journal import Driver, Journal
from ggufkit.sweep.records import Event, Job, Outcome, StoredFile


def test_what_was_appended_is_read(tmp_path: Path) -> None:
    file, stored = tmp_path / "sweep" / journal.JOURNAL, StoredFile("a/b.gguf", 5, "00")
    outcome = Outcome("m|base||", "done", "w1", 1.5, (stored,), facts={"n_params": 7, "arch": ["llama", None]})
    events = [
        journal.began(Driver("node 7", 12, "http://127.0.0.1:8787/status", "1.0")),
        journal.planned(
            "m", [Job("m", "base"), Job("m", "quantize", "plain", "Q8_0"), Job("m", "quantize", "plain")]
        ),
        Event(2.0, "started", "m|base||", text="w1\n\u202e"),
        journal.ended(outcome),
    ]
    with Journal(file) as written:
        assert [written.append(event) for event in events] == events
    assert list(journal.read(file)) == events
    assert Driver.of(events[0]) == Driver("node 7", 12, "http://127.0.0.1:8787/status", "1.0")
    assert journal.planned_stages(events[1]) == {"base": 1, "quantize": 2}


def test_a_line_that_was_cut_is_skipped_and_the_next_begins_anew(tmp_path: Path) -> None:
    file = tmp_path / journal.JOURNAL
    assert list(journal.read(file)) == []
    first, last = Event(1.0, "started", "a"), Event(2.0, "started", "b")
    with Journal(file) as written:
        written.append(first)
        written.append(Event(1.5, "started", "cut"))
    file.write_bytes(file.read_bytes()[:-9])
    assert list(journal.read(file)) == [first]
    with Journal(file) as written:
        written.append(last)
    assert list(journal.read(file)) == [first, last]


def test_texts_that_are_not_what_they_should_be_tell_nothing() -> None:
    event = Event(1.0, "sweep", text="{}")
    assert Driver.of(event) == Driver("", 0)
    assert journal.planned_stages(Event(1.0, "planned", "m", text="[1")) == {}
