"""Two sweeps on one store."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from ggufkit.commands import sweep
from ggufkit.core.errors import BusyError
from ggufkit.core.progress import SilentReporter
from ggufkit.request import BuildRequest
from ggufkit.sweep import done, stores, work
from ggufkit.sweep.claims import CLAIM, alone_at, alone_in
from ggufkit.sweep.places import Places
from ggufkit.sweep.records import Cell, Outcome, StoredFile
from ggufkit.sweep.station import Station
from ggufkit.sweep.stores import PathStore

BEAT_S = 0.02


def nobody(_text: str) -> None:
    """Hears why it takes a while."""


def nothing_is_lost() -> None:
    raise AssertionError("nobody else is there")


def test_a_directory_has_one_sweep(tmp_path: Path) -> None:
    with alone_in(tmp_path), pytest.raises(BusyError, match="Another sweep is at work in"), alone_in(tmp_path):
        pass
    with alone_in(tmp_path):
        pass


def test_a_url_has_one_sweep(tmp_path: Path) -> None:
    store = PathStore(tmp_path)
    with alone_at("s3://x", store, nobody, nothing_is_lost, BEAT_S):
        with (
            pytest.raises(BusyError, match=r"at work in s3://x"),
            alone_at("s3://x", store, nobody, nothing_is_lost, BEAT_S),
        ):
            pass
        assert store.read(CLAIM) != b"free"
    assert store.read(CLAIM) == b"free"
    with alone_at("s3://x", store, nobody, nothing_is_lost, BEAT_S):
        pass


def test_who_was_killed_is_waited_for_and_no_longer(tmp_path: Path) -> None:
    store = PathStore(tmp_path)
    store.write(CLAIM, b"killed 17")
    begun = time.monotonic()
    with alone_at("s3://x", store, nobody, nothing_is_lost, BEAT_S):
        assert time.monotonic() - begun >= 4 * BEAT_S


def test_who_lost_the_store_is_told(tmp_path: Path) -> None:
    store, lost = PathStore(tmp_path), threading.Event()
    with alone_at("s3://x", store, nobody, lost.set, BEAT_S):
        store.write(CLAIM, b"another 0")
        assert lost.wait(5)
    assert store.read(CLAIM) == b"another 0"


def test_what_was_done_is_noted_for_this_sweep_alone(tmp_path: Path) -> None:
    here = Station("w", "host", PathStore(tmp_path), 1, tmp_path, run="one")
    outcome = Outcome("tiny|base||", "done", "w", 1.5, (StoredFile("a.gguf", 3, "0" * 64),), facts={"n_params": 3})
    assert done.noted(outcome.job, here) is None
    done.note(outcome, here)
    found = done.noted(outcome.job, here)
    assert found is not None
    assert replace(found, files=tuple(found.files)) == outcome
    assert done.noted("tiny|base|awq|", here) is None
    assert done.noted(outcome.job, replace(here, run="two")) is None


def test_what_another_sweep_wrote_over_is_not_known(tmp_path: Path) -> None:
    store = PathStore(tmp_path / "url")
    one, two = (Places(tmp_path / name) for name in ("one", "two"))
    for places, is_kept in ((one, False), (one, True), (two, False), (one, False)):
        spec = stores.found(places.out)
        places.journal.touch()
        sweep._own(store, spec, places)
        assert places.journal.exists() is is_kept


def test_a_worker_looks_each_sweeps_cells_up_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked_up: list[str] = []
    monkeypatch.setattr(work, "_looked_up", lambda _asked, here, _reporter: looked_up.append(here.run))
    cells, asked = work._Cells(), work._Asked(Cell("m", "", BuildRequest("owner/model")), ())
    here = Station("w", "host", PathStore(tmp_path), 1, tmp_path, run="one")
    for run in ("one", "one", "two"):
        cells.get(asked, replace(here, run=run), SilentReporter())
    assert looked_up == ["one", "two"]
