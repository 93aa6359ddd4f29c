"""A sweep from another shell: it says whether it runs, ended or was killed, and can be stopped."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from filelock import FileLock

from ggufkit.cli import sweep_watch
from ggufkit.core.errors import InputError
from ggufkit.sweep import journal, watch
from ggufkit.sweep.journal import Driver, Journal
from ggufkit.sweep.places import Places
from ggufkit.sweep.records import Event, Outcome


@pytest.fixture
def places(tmp_path: Path) -> Places:
    found = Places(tmp_path)
    with Journal(found.journal) as written:
        written.append(journal.began(Driver("node7", 12)))
        written.append(Event(time.time(), "planned", "m", text='{"fetch":1,"base":1}'))
        written.append(Event(time.time(), "started", "m|fetch||", text="w1"))
    return found


def append(places: Places, *events: Event) -> None:
    with Journal(places.journal) as written:
        for event in events:
            written.append(event)


def status(places: Places, *options: str) -> str:
    ran = CliRunner().invoke(sweep_watch.status_command, [str(places.out), *options], catch_exceptions=False)
    assert ran.exit_code == 0
    return ran.stdout


def test_it_runs(places: Places) -> None:
    with FileLock(places.lock):
        text = status(places)
        told = json.loads(status(places, "--json"))
    assert text.startswith("The sweep is at work on node7, process 12.\n")
    assert "▸ m: fetch · w1 · " in text
    assert (told["state"], told["running"], told["models"]["m"]["fetch"]) == (
        "running", [{"job": "m|fetch||", "worker": "w1"}], {"total": 1, "running": 1},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("events", "said"),
    [
        ([], "The sweep was killed, or its machine was (on node7, process 12): nothing works on it now."),
        ([Event(0.0, "stopped")], "The sweep was stopped. The same command goes on from there."),
        ([Event(0.0, "finished")], "The sweep is finished."),
        ([journal.ended(Outcome("m|base||", "failed", message="It broke.")), Event(0.0, "finished")],
         "The sweep ended; not all could be done."),
    ],
)  # fmt: skip
def test_it_ended(places: Places, events: list[Event], said: str) -> None:
    places.lock.touch()
    append(places, *events)
    assert status(places).startswith(said)


def test_none_began(tmp_path: Path) -> None:
    places = Places(tmp_path)
    with pytest.raises(InputError, match="holds no sweep"):
        watch.look(places)
    places.journal.parent.mkdir(parents=True)
    places.journal.touch()  # stopped before its workers were there
    with pytest.raises(InputError, match="holds no sweep"):
        watch.look(places)


def test_a_new_journal_is_a_beginning_however_long_the_old_one_was(places: Places) -> None:
    append(places, Event(0.0, "finished"), Event(0.0, "finished"))
    before = watch.size_of(places.journal)
    assert not watch.has_begun(places, before)
    places.journal.unlink()
    assert not watch.has_begun(places, before)
    append(places, Event(0.0, "finished"))
    assert watch.has_begun(places, before)


def driver(places: Places, at_work: threading.Event, heed: Callable[[Places], bool]) -> None:
    with FileLock(places.lock):
        at_work.set()
        while not heed(places):
            time.sleep(0.01)


def test_it_is_asked_to_stop_and_waited_for(places: Places) -> None:
    at_work = threading.Event()
    runs = threading.Thread(target=driver, args=(places, at_work, watch.is_asked_to_stop))
    runs.start()
    at_work.wait(10)
    ran = CliRunner().invoke(sweep_watch.stop_command, [str(places.out)], catch_exceptions=False)
    runs.join(10)
    assert ran.stdout.startswith("Stopped.")
    ran = CliRunner().invoke(sweep_watch.stop_command, [str(places.out)], catch_exceptions=False)
    assert ran.stdout == "Nothing is to be stopped: the sweep is not at work.\n"


def test_one_that_does_not_stop_is_told(places: Places) -> None:
    with FileLock(places.lock):
        ran = CliRunner().invoke(
            sweep_watch.stop_command, [str(places.out), "--wait", "0"], catch_exceptions=False
        )
    assert ran.stdout.startswith("It was asked to stop, and has not ended after 0 s")
