"""Workers of a sweep as Dask has them: checked, with resources, and with files that only the driver sees."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ggufkit.core import machine
from ggufkit.core.errors import BusyError, InputError
from ggufkit.sweep import clusters, keeper, station, stores
from ggufkit.sweep.clusters import Where
from ggufkit.sweep.records import StoredFile
from ggufkit.sweep.station import Versions
from ggufkit.sweep.stores import RemoteStore, StoreSpec

JOB = {station.CHECKED: 1.0, station.HEAVY: 1.0}


@pytest.fixture
def scheduler(private_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Two workers in this process that do not see the driver's directory."""
    distributed = pytest.importorskip("distributed")
    monkeypatch.setattr(StoreSpec, "is_seen_here", lambda _spec: False)
    with distributed.LocalCluster(
        n_workers=2,
        threads_per_worker=2,
        processes=False,
        dashboard_address=None,
        protocol="tcp",
        host="127.0.0.1",
    ) as cluster:
        yield cluster.scheduler_address


def make(name: str, data: bytes) -> tuple[StoredFile, ...]:
    here = station.current()
    place = here.store.place("cell")
    place.mkdir(parents=True, exist_ok=True)
    (place / name).write_bytes(data)
    return here.store.push("cell", [place / name])


def bring(files: tuple[StoredFile, ...]) -> list[bytes]:
    here = station.current()
    assert isinstance(here.store, RemoteStore)
    here.store.pull("cell", files)
    return [(here.store.place("cell") / file.name).read_bytes() for file in files]


def exchange() -> tuple[bytes | None, bytes | None, list[str]]:
    store = station.current().store
    before = store.read("jobs/x")
    store.write("jobs/x", b"1")
    return before, store.read("jobs/x"), store.names("jobs/")


def pause(path: Path, n_bytes: int) -> str:
    here = station.current()
    here.pause(path, n_bytes)
    return here.name


def place() -> tuple[str, str]:
    return station.current().name, str(station.current().store.place("cell"))


def test_files_that_only_the_driver_sees(scheduler: str, tmp_path: Path) -> None:
    data = [os.urandom(stores.BLOCK + 5), b"", b"small"]
    with clusters.connected(Where(scheduler), stores.found(tmp_path / "out")) as here:
        made = [here.client.submit(make, f"f{n}", part, resources=JOB) for n, part in enumerate(data)]
        files = tuple(file for one in here.client.gather(made) for file in one)
        assert [(tmp_path / "out/cell" / file.name).read_bytes() for file in files] == data
        assert here.client.submit(bring, files, resources=JOB).result(30) == data
        assert here.client.submit(exchange, resources=JOB).result(30) == (None, b"1", ["jobs/x"])
        assert (tmp_path / "out/jobs/x").read_bytes() == b"1"
        name, path = here.client.submit(place, resources={keeper.RESOURCE: 1}).result(30)
        assert (name, path) == (keeper.NAME, str(tmp_path / "out/cell"))
        with pytest.raises(InputError, match="no name of a file"):
            here.client.submit(lambda: station.current().store.place("../x"), resources=JOB).result(30)


def test_jobs_wait_for_workers_that_are_checked(scheduler: str, tmp_path: Path) -> None:
    from distributed import Client

    with Client(scheduler, set_as_default=False) as client:
        waiting = client.submit(place, resources=JOB)
        with clusters.connected(Where(scheduler), stores.found(tmp_path / "out")) as here:
            assert here.refused == ()
            assert waiting.result(30)[0] != keeper.NAME


def test_workers_that_cannot_be_used_are_refused(
    scheduler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = station._station

    def but_one(worker: Any, spec: StoreSpec) -> station.Station:
        if worker.name == 0:
            raise InputError("It is Tuesday there.")
        return look(worker, spec)

    monkeypatch.setattr(station, "_station", but_one)
    with clusters.connected(Where(scheduler), stores.found(tmp_path / "out")) as here:
        (reason,) = here.refused
        assert reason.endswith("It is Tuesday there.")
        jobs = [here.client.submit(lambda _n: place()[0], n, resources=JOB, pure=False) for n in range(4)]
        assert set(here.client.gather(jobs)) == {"1"}
    monkeypatch.setattr(Versions, "difference", lambda *_given: "HOST has llama.cpp 123, this machine 456.")
    told = r"No worker can be used\. HOST has llama\.cpp 123"
    with (
        pytest.raises(InputError, match=told) as raised,
        clusters.connected(Where(scheduler), stores.found(tmp_path)),
    ):
        pass
    assert "Install the same ggufkit" in str(raised.value.hint)


@pytest.mark.parametrize("by_url", [False, True])
def test_a_scheduler_has_one_sweep(scheduler: str, tmp_path: Path, by_url: bool) -> None:
    url = (tmp_path / "store").as_uri() if by_url else ""

    def second() -> None:
        with clusters.connected(Where(scheduler), stores.found(tmp_path / "other", url)):
            pass

    told = "Another sweep is at work with the scheduler"
    with clusters.connected(Where(scheduler), stores.found(tmp_path, url)), pytest.raises(BusyError, match=told):
        second()
    with clusters.connected(Where(scheduler), stores.found(tmp_path / "other")) as here:
        assert here.client.submit(place, resources=JOB).result(30)


def test_a_worker_without_room_takes_no_jobs(
    scheduler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(station, "_LOOK_S", 0.05)
    with clusters.connected(Where(scheduler), stores.found(tmp_path / "out")) as here:
        needed = 1 << 60
        name = here.client.submit(pause, tmp_path, needed, resources=JOB).result(30)
        others = [here.client.submit(lambda _n: place()[0], n, resources=JOB, pure=False) for n in range(6)]
        assert name not in here.client.gather(others)
        monkeypatch.setattr(machine, "free_disk", lambda _path: needed)


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9", "127.0.0.1", "foo"])
def test_a_scheduler_that_is_not_there(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed")
    monkeypatch.setattr(clusters, "_CONNECT_S", 0.3)
    where, told = Where(address), f"No Dask scheduler answers at {re.escape(address)}"
    with pytest.raises(InputError, match=told), clusters.connected(where, stores.found(tmp_path)):
        pass
