"""A sweep's files: seen by all, or carried by a URL or by Dask."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import pytest

from ggufkit.core.errors import GgufkitError, InputError, ResourceError
from ggufkit.sweep import stores
from ggufkit.sweep.by_url import UrlCarrier
from ggufkit.sweep.keeper import Desk
from ggufkit.sweep.records import StoredFile
from ggufkit.sweep.stores import MARK, PathStore, RemoteStore, StoreError, StoreSpec

CELL = "quick/tiny"


@dataclass
class AtDesk:
    """A carrier that asks the keeper's desk without a connection; it may be cut."""

    desk: Desk
    cut_after: int | None = None

    def fetch(self, name: str, to: BinaryIO) -> bool:
        while True:
            block = self.desk.fetch(name, to.tell())
            if not block:
                return block is not None
            if self.cut_after is not None:
                to.write(block[: self.cut_after])
                raise StoreError("The connection was cut.")
            to.write(block)

    def send(self, path: Path, name: str, sha256: str) -> None:
        data = path.read_bytes()
        start = self.desk.arrived(name, sha256)
        assert self.desk.send(name, sha256, start, data[start:], len(data)) == len(data)

    def read(self, name: str) -> bytes | None:
        return self.desk.read(name)

    def write(self, name: str, data: bytes) -> None:
        self.desk.write(name, data)

    def names(self, prefix: str) -> list[str]:
        return self.desk.names(prefix)


@pytest.fixture(params=["desk", "file", "memory"])
def remote(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], RemoteStore]:
    """A store elsewhere, as each of its hosts sees it."""
    urls = {"file": f"file://{tmp_path}/far", "memory": f"memory://{tmp_path.name}/far"}
    if request.param != "desk":
        pytest.importorskip("fsspec")

    def store(host: str) -> RemoteStore:
        carrier = (
            UrlCarrier(urls[request.param]) if request.param in urls else AtDesk(Desk(PathStore(tmp_path / "far")))
        )
        return RemoteStore(tmp_path / host, carrier)

    return store


def made(store: RemoteStore | PathStore, name: str, data: bytes) -> Path:
    path = store.place(CELL) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def test_what_one_host_makes_another_gets(remote: Callable[[str], RemoteStore]) -> None:
    one, two = remote("one"), remote("two")
    paths = [made(one, "a.gguf", b"GGUF" * 1000), made(one, "scaled/x/w.bin", b"w"), made(one, "empty", b"")]
    files = one.push(CELL, [paths[0], paths[1].parents[1], paths[2], one.place(CELL) / "not-there"])
    assert [f.name for f in files] == ["a.gguf", "scaled/x/w.bin", "empty"]
    assert files[0].sha256 == hashlib.sha256(b"GGUF" * 1000).hexdigest()
    two.pull(CELL, files)
    assert [(two.place(CELL) / f.name).read_bytes() for f in files] == [p.read_bytes() for p in paths]
    assert two.names(f"{CELL}/") == [f"{CELL}/a.gguf", f"{CELL}/empty", f"{CELL}/scaled/x/w.bin"]


def test_what_is_here_does_not_come_again(remote: Callable[[str], RemoteStore]) -> None:
    one, two = remote("one"), remote("two")
    files = one.push(CELL, [made(one, "a", b"1" * 50)])
    two.pull(CELL, files)
    before = (two.place(CELL) / "a").stat().st_mtime_ns
    two.pull(CELL, files)
    assert (two.place(CELL) / "a").stat().st_mtime_ns == before


def test_what_was_changed_here_comes_again(remote: Callable[[str], RemoteStore]) -> None:
    one, two = remote("one"), remote("two")
    files = one.push(CELL, [made(one, "a", b"right")])
    made(two, "a", b"wrong")
    two.pull(CELL, files)
    assert (two.place(CELL) / "a").read_bytes() == b"right"


def test_a_transfer_goes_on_where_it_was_cut(tmp_path: Path) -> None:
    desk = Desk(PathStore(tmp_path / "far"))
    one, carrier = RemoteStore(tmp_path / "one", AtDesk(desk)), AtDesk(desk, cut_after=7)
    files = one.push(CELL, [made(one, "a", bytes(range(100)))])
    two = RemoteStore(tmp_path / "two", carrier)
    with pytest.raises(StoreError, match="cut"):
        two.pull(CELL, files)
    assert [f.stat().st_size for f in (tmp_path / "two/.ggufkit/arriving").iterdir() if f.suffix != ".lock"] == [7]
    carrier.cut_after = None
    two.pull(CELL, files)
    assert (two.place(CELL) / "a").read_bytes() == bytes(range(100))


def test_what_was_left_of_another_file_is_no_harm(remote: Callable[[str], RemoteStore]) -> None:
    one, two = remote("one"), remote("two")
    files = one.push(CELL, [made(one, "a", b"right")])
    arriving = two.local / ".ggufkit/arriving"
    arriving.mkdir(parents=True)
    (arriving / files[0].sha256).write_bytes(b"wro")
    two.pull(CELL, files)
    assert (two.place(CELL) / "a").read_bytes() == b"right"


def test_a_file_that_came_to_harm_is_refused(remote: Callable[[str], RemoteStore]) -> None:
    one, two = remote("one"), remote("two")
    files = one.push(CELL, [made(one, "a", b"right")])
    one.write(f"{CELL}/a", b"wrong")
    with pytest.raises(StoreError, match="another file"):
        two.pull(CELL, files)
    assert not (two.place(CELL) / "a").exists()


def test_a_file_that_is_gone_is_told_of(remote: Callable[[str], RemoteStore], tmp_path: Path) -> None:
    gone = StoredFile("a.gguf", 3, "0" * 64)
    for store in (remote("one"), PathStore(tmp_path / "seen")):
        with pytest.raises(InputError, match=r"tiny/a\.gguf is not in the store"):
            store.pull(CELL, [gone])


def test_a_full_disk_is_told_before_anything_comes(
    remote: Callable[[str], RemoteStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = remote("one"), remote("two")
    files = one.push(CELL, [made(one, "a", b"right")])
    usage = shutil.disk_usage(one.local)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=2))
    with pytest.raises(ResourceError, match="disk is full"):
        two.pull(CELL, files)


def test_small_files_are_read_and_written(remote: Callable[[str], RemoteStore], tmp_path: Path) -> None:
    for store in (remote("one"), PathStore(tmp_path / "seen")):
        assert store.read("jobs/x.json") is None
        assert store.names("jobs/") == []
        store.write("jobs/x.json", b"1")
        store.write("jobs/x.json", b"2")
        store.write("jobs/y.json", b"3")
        assert store.read("jobs/x.json") == b"2"
        assert store.names("jobs/") == ["jobs/x.json", "jobs/y.json"]
        assert store.names("jobs/y") == ["jobs/y.json"]


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../x", "a\\x", "a\0"])
def test_names_stay_in_the_store(name: str, tmp_path: Path) -> None:
    for act in (PathStore(tmp_path).place, Desk(PathStore(tmp_path)).read, PathStore(tmp_path).names):
        with pytest.raises(InputError, match="no name of a file"):
            act(name)


def test_a_directory_of_the_same_path_is_not_the_same(tmp_path: Path) -> None:
    spec = stores.found(tmp_path / "out")
    assert stores.found(tmp_path / "out").name == spec.name
    assert spec.is_seen_here()
    assert not replace(spec, out=str(tmp_path / "elsewhere")).is_seen_here()
    (tmp_path / "out" / MARK).write_text("another")
    assert not spec.is_seen_here()
    assert stores.found(tmp_path / "other").name != spec.name


def test_places_outlive_a_worker(private_cache: Path) -> None:
    assert StoreSpec("abc", "/out").local() == private_cache / "sweeps" / "abc"


def test_a_url_that_nothing_knows_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("fsspec")
    with pytest.raises(InputError, match="cannot be used"):
        RemoteStore(tmp_path, UrlCarrier("nosuch://bucket")).read("x")


def test_what_a_file_system_raises_is_told(tmp_path: Path) -> None:
    pytest.importorskip("fsspec")
    (tmp_path / "far").write_text("a file")
    with pytest.raises(StoreError, match="cannot be written") as raised:
        UrlCarrier(f"file://{tmp_path}/far").write("x", b"1")
    assert isinstance(raised.value, GgufkitError)
    assert raised.value.hint
