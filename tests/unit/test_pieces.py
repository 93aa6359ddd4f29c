"""What a build has yet to make, what is said of its time, and what a display shows of it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from ggufkit.core import durations, variants
from ggufkit.core.progress import SilentReporter
from ggufkit.core.records import QuantType, Toolchain
from ggufkit.llama.gguf import read_gguf, read_header
from ggufkit.pipeline import outlook, pace, stages
from ggufkit.pipeline.job import Job
from ggufkit.pipeline.outlook import Outlook
from ggufkit.pipeline.pieces import pieces
from ggufkit.request import BuildRequest
from ggufkit.steps.session import Session
from ggufkit.steps.step import Workspace
from ggufkit.texts.corpus import Corpus
from tests.fake_results import FAKES, write_results

TYPES = (QuantType("Q4_K_M", ""), QuantType("IQ4_XS", ""))


@pytest.fixture
def job(tmp_path: Path, private_cache: Path) -> Job:
    """Two types of two variants of a GGUF, evaluated and timed."""
    base = write_results(tmp_path / "results", FAKES[:1]) / "tiny-F16.gguf"
    out, tools = tmp_path / "out", Toolchain(Path("bin"), "built", "c", "cpu", "1")
    text = Corpus(tmp_path / "text.txt", "sha", 1_000_000, "text")
    request = BuildRequest(base, out, ("q4_k_m", "iq4_xs"), ("plain", "imatrix"), chunks=10)
    session = Session(tools, Workspace(out), SilentReporter(), threads=2)
    chosen = variants.resolve(("plain", "imatrix"))
    return Job(request, read_gguf(base), "tiny", TYPES, TYPES, chosen, text, text, session)


def test_each_thing_once(job: Job) -> None:
    todo = pieces(job)
    assert Counter(piece.stage for piece in todo) == {
        "convert": 1, "imatrix": 1, "quantize": 4, "evaluate": 5, "bench": 5, "report": 1
    }  # fmt: skip
    n_params = job.model.n_params
    assert {p.work.units for p in todo if p.stage == "evaluate"} == {n_params * 10 * 512}
    job.base_output.parent.mkdir(parents=True)
    job.base_output.write_bytes(b"")
    assert len(pieces(job)) == len(todo) - 1, "what is there is not made again"


def test_what_was_never_done_here_is_told_from_the_machine_s_pace(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = list[list[str]]()
    monkeypatch.setattr(pace, "probe", lambda _session, types: tried.append(sorted(types)))
    steps, whole = stages.timed(job, read_header(Path(job.request.model)))
    assert tried == [["IQ4_XS", "IQ4_XS", "Q4_K", "Q4_K"]]
    assert whole.factor == pytest.approx(pace._GUESSED)
    assert sum(step.seconds or 0 for step in steps) <= whole.seconds + 0.5
    assert [step.stage for step in steps] == ["imatrix", "quantize", "evaluate", "bench", "report"]


def test_what_was_done_is_told_from_that_and_the_machine_is_left_alone(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    for piece in pieces(job):
        durations.note(piece.work, 10)
    monkeypatch.setattr(pace, "probe", lambda *_: pytest.fail("nothing is unknown"))
    _, whole = stages.timed(job, read_header(Path(job.request.model)))
    assert whole.seconds == pytest.approx(10 * len(pieces(job)))
    assert whole.factor == pytest.approx(1.25)


def test_the_display_counts_results_and_says_what_is_left(job: Job) -> None:
    told = list[tuple[float, float | None, str]]()

    class Watched:
        def update(self, done: float, total: float | None = None, note: str = "") -> None:
            told.append((done, total, note))

    todo = pieces(job)
    for piece in todo:
        durations.note(piece.work, 60)
    shown = Outlook(todo, Watched(), job.session)
    shown.finished(Path("something-else"))
    assert told == []
    for piece in todo[:8]:
        shown.finished(piece.output)
    assert told[-1] == (8, 17, "9 min left")


def test_nothing_to_make_shows_nothing(job: Job) -> None:
    for piece in pieces(job):
        piece.output.parent.mkdir(parents=True, exist_ok=True)
        piece.output.write_bytes(b"")
    with outlook.shown(job) as same:
        assert same is job
