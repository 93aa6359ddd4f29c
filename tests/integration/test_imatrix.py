"""A long importance matrix is made in parts: the same bytes, and an interrupted one goes on."""

from __future__ import annotations

from pathlib import Path

import pytest

from ggufkit import corpus, imatrix_parts, process
from ggufkit.corpus import Corpus
from ggufkit.imatrix import ImatrixOptions, make_imatrix
from ggufkit.llama.gguf import read_gguf
from ggufkit.process import ToolOutput
from ggufkit.progress import SilentReporter
from ggufkit.records import GgufFile
from ggufkit.session import Session
from tests import tiny

N_CTX, BATCH = 64, 32


@pytest.fixture
def gguf(base: Path) -> GgufFile:
    return read_gguf(base, "0" * 64)


@pytest.fixture
def text(tmp_path: Path) -> Corpus:
    return corpus.find(str(tiny.text_file(tmp_path / "calibration.txt", lines=900)), SilentReporter())


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every part is one batch."""
    monkeypatch.setattr(imatrix_parts, "_PART_S", 0.0)


def options(n_chunks: int) -> ImatrixOptions:
    return ImatrixOptions(N_CTX, n_chunks)


def leftovers(session: Session) -> list[str]:
    return [f.name for f in session.workspace.private.glob("*.sums")]


def spy(monkeypatch: pytest.MonkeyPatch, fail_at: int | None = None) -> list[list[str]]:
    """The commands that are run; the one of that number is interrupted."""
    commands: list[list[str]] = []
    run = process.run

    def run_or_fail(argv: list[str], **more: object) -> ToolOutput:
        commands.append(argv)
        if len(commands) == fail_at:
            raise KeyboardInterrupt
        return run(argv, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(process, "run", run_or_fail)
    return commands


def test_parts_give_the_same_bytes(
    gguf: GgufFile, text: Corpus, session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = make_imatrix(gguf, text, tmp_path / "whole.imatrix", options(2 * BATCH + 9), session)
    assert len(whole.manifest.argv) == 1
    monkeypatch.setattr(imatrix_parts, "_PART_S", 0.0)
    parts = make_imatrix(gguf, text, tmp_path / "parts.imatrix", options(2 * BATCH + 9), session)
    assert len(parts.manifest.argv) == 2
    assert parts.path.read_bytes() == whole.path.read_bytes()
    assert leftovers(session) == []


@pytest.mark.usefixtures("small_parts")
def test_an_interrupted_one_goes_on(
    gguf: GgufFile, text: Corpus, session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = make_imatrix(gguf, text, tmp_path / "whole.imatrix", options(4 * BATCH), session)
    assert len(whole.manifest.argv) == 4
    output = tmp_path / "m.imatrix"
    with monkeypatch.context() as patched:
        spy(patched, fail_at=3)
        with pytest.raises(KeyboardInterrupt):
            make_imatrix(gguf, text, output, options(4 * BATCH), session)
    assert not output.exists()
    assert len(leftovers(session)) == 1
    commands = spy(monkeypatch)
    made = make_imatrix(gguf, text, output, options(4 * BATCH), session)
    assert [c[c.index("--chunk") + 1] for c in commands] == ["64", "96"]
    assert made.path.read_bytes() == whole.path.read_bytes()
    assert leftovers(session) == []


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("damage", ["truncated", "other text", "force"])
def test_what_is_left_of_another_one_is_not_used(
    damage: str, gguf: GgufFile, text: Corpus, session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "m.imatrix"
    with monkeypatch.context() as patched:
        spy(patched, fail_at=2)
        with pytest.raises(KeyboardInterrupt):
            make_imatrix(gguf, text, output, options(2 * BATCH), session)
    (left,) = session.workspace.private.glob("*.sums")
    if damage == "truncated":
        left.write_bytes(left.read_bytes()[:-40])
    elif damage == "other text":
        Path(text.path).write_text(text.path.read_text().replace("a", "e"))
        text = corpus.find(str(text.path), SilentReporter())
    else:
        session = Session(session.tools, session.workspace, threads=2, force=True)
    commands = spy(monkeypatch)
    make_imatrix(gguf, text, output, options(2 * BATCH), session)
    assert len(commands) == 2
    assert "--chunk" not in commands[0]


@pytest.mark.usefixtures("small_parts")
def test_a_text_that_ends_early(
    gguf: GgufFile, session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As much as there is: up to the last whole batch, or to the end within one."""
    text = corpus.find(str(tiny.text_file(tmp_path / "short.txt", lines=300)), SilentReporter())
    commands = spy(monkeypatch)
    made = make_imatrix(gguf, text, tmp_path / "m.imatrix", options(100 * BATCH), session)
    assert made.path.is_file()
    assert 1 <= len(commands) <= 8
    assert leftovers(session) == []


@pytest.mark.parametrize(
    ("done", "total", "n_ctx", "seconds", "expected"),
    [
        (0, 128, 512, 0.1, 128),    # quick: at once
        (0, 128, 512, 20.0, 28),    # ten minutes, in batches of four
        (28, 128, 512, 20.0, 28),
        (96, 128, 512, 20.0, 28),   # four are left for a last part
        (100, 128, 512, 20.0, 28),
        (98, 128, 512, 20.0, 30),   # no last part of two
        (0, 128, 512, 9000.0, 4),   # never less than a batch
        (0, 16, 4096, 700.0, 1),
        (12, 16, 4096, 700.0, 1),
        (13, 16, 4096, 700.0, 3),   # the tool begins no part with two chunks left
    ],
)  # fmt: skip
def test_how_long_parts_are(done: int, total: int, n_ctx: int, seconds: float, expected: int) -> None:
    assert imatrix_parts.next_part(done, total, n_ctx, seconds) == expected
