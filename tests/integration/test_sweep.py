"""A sweep on workers of this process: the same as builds one after the other, made once, and gone on with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import ggufkit
from ggufkit.core import process
from ggufkit.core.errors import Interrupted
from ggufkit.core.records import Toolchain
from ggufkit.pipeline.build import build
from ggufkit.request import BuildRequest
from ggufkit.sweep import drive as drive_module
from ggufkit.sweep import missing, station, stores
from ggufkit.sweep.course import Course
from ggufkit.sweep.drive import Driver
from ggufkit.sweep.facts import Facts, File
from ggufkit.sweep.journal import Journal
from ggufkit.sweep.keys import Keys
from ggufkit.sweep.past import Past
from ggufkit.sweep.places import Places
from ggufkit.sweep.records import Cell, Event, Job, Outcome
from ggufkit.sweep.station import Versions
from ggufkit.sweep.stores import PathStore
from ggufkit.sweep.work import TryAgain
from tests import tiny

distributed = pytest.importorskip("distributed")
SPEEDS = ["eval_tps"]
Sweep = Callable[..., Mapping[str, Outcome]]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two workers that are threads of this process, for all tests here."""
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=3, processes=False, dashboard_address=None, silence_logs=50
    ) as started:
        yield started


@pytest.fixture
def sweep(cluster: Any, tmp_path: Path, tools: Toolchain) -> Sweep:
    """Drives cells in a directory."""

    def drive(cells: list[Cell], hear: Callable[[Event], None] = lambda _event: None) -> Mapping[str, Outcome]:
        out = tmp_path / "out"
        spec, places, versions = stores.found(out), Places(out), Versions.here()
        with distributed.Client(cluster, set_as_default=False) as client, Journal(places.journal) as told:
            client.register_plugin(station.plugin(spec, versions), name=f"{station.PLUGIN}-{tmp_path.name}")
            course = Course(
                look=Past(places.journal, PathStore(out)).outcome, keys=lambda cell: Keys.of(cell, versions)
            )
            return Driver(lambda: client, out, told, course, hear).drive(cells)

    return drive


@pytest.fixture
def request_(base: Path, tmp_path: Path) -> BuildRequest:
    """Four files of a tiny model."""
    text = tiny.text_file(tmp_path / "text.txt")
    return BuildRequest(
        base, None, "q4_k_m,q8_0", "plain,imatrix", corpus=text, calibration=text, ctx=64, chunks=8, bench=False, threads=2
    )  # fmt: skip


def table(out: Path) -> Any:
    return ggufkit.load_results(out).drop(columns=SPEEDS)


def ends(outcomes: Mapping[str, Outcome]) -> dict[str, int]:
    states = [outcome.state for outcome in outcomes.values()]
    return {state: states.count(state) for state in set(states)}


def test_a_sweep_makes_what_builds_make_and_goes_on(sweep: Sweep, request_: BuildRequest, tmp_path: Path) -> None:
    build(replace(request_, out=tmp_path / "built"))
    cells = [Cell("tiny", "", request_), Cell("other", "", replace(request_, variants=("imatrix",)))]

    first = sweep(cells)

    assert all(outcome.is_good for outcome in first.values()), [o.message for o in first.values() if not o.is_good]
    assert table(tmp_path / "built").equals(table(tmp_path / "out" / "tiny"))
    for file in (tmp_path / "built").glob("*.gguf"):
        assert file.read_bytes() == (tmp_path / "out" / "tiny" / file.name).read_bytes()
    states = sorted(first[f"{cell}|measure|imatrix|Q4_K_M"].state for cell in ("tiny", "other"))
    assert states == ["done", "fresh"], "whoever is planned first makes it for both"

    heard: list[Event] = []
    assert ends(sweep(cells, heard.append)) == {"fresh": len(first)}
    assert not [event for event in heard if event.kind == "started"]

    (tmp_path / "out" / "tiny" / "tiny-llama-imatrix-Q4_K_M.gguf").unlink()
    again = sweep(cells)
    assert again["tiny|quantize|imatrix|Q4_K_M"].state == "done"
    assert again["tiny|measure|imatrix|Q4_K_M"].state == "fresh"
    assert table(tmp_path / "built").equals(table(tmp_path / "out" / "tiny"))
    assert build(replace(request_, out=tmp_path / "out" / "tiny")).made == 0


def test_what_two_profiles_share_is_made_once(sweep: Sweep, request_: BuildRequest, tmp_path: Path) -> None:
    quick = replace(request_, evaluation=replace(request_.evaluation, chunks=4), types=("q4_k_m",))

    sweep([Cell("tiny", "full", replace(request_, types=("q4_k_m",))), Cell("tiny", "quick", quick)])

    files = [tmp_path / "out" / profile / "tiny" / "tiny-llama-Q4_K_M.gguf" for profile in ("full", "quick")]
    assert files[0].samefile(files[1])
    chunks = [list(table(file.parent)["n_chunks"]) for file in files]
    assert chunks == [[8, 8, 8], [4, 4, 4]]


def test_what_an_earlier_sweep_made_is_made_once_for_another_profile(
    sweep: Sweep, request_: BuildRequest, tmp_path: Path
) -> None:
    small = replace(request_, types=("q4_k_m",))
    sweep([Cell("tiny", "full", small)])

    both = sweep([Cell("tiny", "full", small), Cell("tiny", "quick", small)])

    assert all(outcome.is_good for outcome in both.values()), [o.message for o in both.values() if not o.is_good]
    files = [tmp_path / "out" / profile / "tiny" / "tiny-llama-Q4_K_M.gguf" for profile in ("full", "quick")]
    assert files[0].samefile(files[1])


def test_a_cell_that_fails_leaves_the_others(sweep: Sweep, request_: BuildRequest, tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF")

    ended = sweep(
        [
            Cell("bad", "", replace(request_, model=str(broken))),
            Cell("tiny", "", replace(request_, types=("q8_0",))),
        ]
    )

    assert ended["bad|fetch||"].state == "failed"
    assert str(broken) in ended["bad|fetch||"].message
    assert all(outcome.is_good for job, outcome in ended.items() if job.startswith("tiny|"))
    assert (Places(tmp_path / "out").log("bad|fetch||")).read_text().count("Error: ") == 1


def test_what_could_be_made_is_tabulated(sweep: Sweep, request_: BuildRequest, tmp_path: Path) -> None:
    ended = sweep([Cell("tiny", "", replace(request_, types=("q8_0", "1bpw"), variants=("plain",)))])

    assert ended["tiny|quantize|plain|1.00bpw"].state == "failed"
    assert ended["tiny|measure|plain|1.00bpw"].because == "tiny|quantize|plain|1.00bpw"
    assert ended["tiny|finish||"].state == "done"
    assert list(table(tmp_path / "out" / "tiny")["type"]) == ["F16", "Q8_0"]


def test_a_model_of_which_a_job_failed_has_tables_of_the_rest(cluster: Any, tmp_path: Path) -> None:
    kinds = ("Q4_K_M", "Q8_0", "Q2_K")
    facts = Facts(tuple(File("plain", kind) for kind in kinds)).to_json()

    def do(job: Job, _cell: Cell, _given: Any, _twin: Any, *needs: Outcome) -> Outcome:
        if job.stage == "quantize" and job.type != "Q8_0":
            raise TryAgain(f"No {job.type} today.")
        bad = [one.job for one in needs if not one.is_good]
        return Outcome(job.id, "done", facts=facts if job.stage == "fetch" else {}, message=" ".join(bad))

    cell = Cell("m", "", BuildRequest("owner/model", tmp_path / "m", kinds, "plain", bench=False))
    with distributed.Client(cluster, set_as_default=False) as client, Journal(tmp_path / "journal") as told:
        client.register_plugin(station.plugin(stores.found(tmp_path), Versions.here()), name="tables")
        ended = Driver(lambda: client, tmp_path, told, Course(do=do)).drive([cell])

    assert ends(ended) == {"failed": 2, "skipped": 2, "done": 6}
    missed = {job for job, outcome in ended.items() if not outcome.is_good}
    assert ended["m|finish||"].state == "done"
    assert set(ended["m|finish||"].message.split()) == missed


def drive(
    cluster: Any, out: Path, cells: list[Cell], course: Course, hear: Callable[[Event], None]
) -> Mapping[str, Outcome]:
    with distributed.Client(cluster, set_as_default=False) as client, Journal(out / "journal") as told:
        client.register_plugin(station.plugin(stores.found(out), Versions.here()), name="driven")
        return Driver(lambda: client, out, told, course, hear).drive(cells)


def test_what_fails_in_one_profile_is_tried_by_the_other(cluster: Any, tmp_path: Path) -> None:
    facts = Facts((File("plain", "Q8_0"),)).to_json()

    def do(job: Job, _cell: Cell, _given: Any, _twin: Any, *_needs: Outcome) -> Outcome:
        if job.stage == "base" and job.cell == "full/m":
            raise TryAgain("No base today.")
        return Outcome(job.id, "done", facts=facts if job.stage == "fetch" else {})

    request = BuildRequest("owner/model", tmp_path / "m", "q8_0", "plain", bench=False)
    cells = [Cell("m", profile, request) for profile in ("full", "quick")]
    course = Course(do=do, keys=lambda cell: Keys.of(cell, Versions.here()))
    ended = drive(cluster, tmp_path, cells, course, lambda _event: None)

    assert ended["full/m|base||"].message == "No base today."
    assert {outcome.state for job, outcome in ended.items() if job.startswith("quick/")} == {"done"}


def test_what_no_worker_offers_is_told(cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(missing, "_PATIENCE_S", 0.5)
    monkeypatch.setattr(drive_module, "_STRANDED_S", 0.2)
    facts = Facts((File("plain", "Q8_0"),)).to_json()
    heard: list[str] = []

    def do(job: Job, _cell: Cell, _given: Any, _twin: Any, *_needs: Outcome) -> Outcome:
        return Outcome(job.id, "done", facts=facts if job.stage == "fetch" else {})

    def hear(event: Event) -> None:
        if event.kind == "warned":
            heard.append(event.text)

    cell = Cell("m", "", BuildRequest("owner/model", tmp_path / "m", "q8_0", "plain", bench=False))
    on_gpu = Course(do=do, on_gpu=True, is_stopped=lambda: "with a GPU" in "".join(heard))
    with pytest.raises(Interrupted):
        drive(cluster, tmp_path, [cell], on_gpu, hear)
    process.go_on()  # the workers are of this process, whose tools were stopped
    assert heard[-1].startswith("A job waits for a worker with a GPU, and none takes jobs.")
