"""A long importance matrix is made in parts: the same bytes, and an interrupted one goes on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from gguf import GGUFReader

from ggufkit.core import process
from ggufkit.core.errors import ToolOutputError
from ggufkit.core.hashing import sha256_file
from ggufkit.core.process import ToolOutput
from ggufkit.core.progress import SilentReporter
from ggufkit.core.records import GgufFile, Toolchain
from ggufkit.llama import importance, vocab
from ggufkit.llama.gguf import read_gguf, read_header
from ggufkit.models import sources
from ggufkit.steps import division, imatrix, imatrix_parts
from ggufkit.steps.imatrix import ImatrixOptions, make_imatrix
from ggufkit.steps.imatrix_parts import Pace
from ggufkit.steps.session import Session
from ggufkit.steps.step import Workspace
from ggufkit.texts import corpus
from ggufkit.texts.corpus import Corpus
from tests import tiny
from tests.integration.test_awq import to_gguf

N_CTX, BATCH = 64, 32


@pytest.fixture
def gguf(base: Path) -> GgufFile:
    return read_gguf(base, sha256_file(base))


@pytest.fixture
def text(tmp_path: Path) -> Corpus:
    return corpus.resolve(str(tiny.text_file(tmp_path / "calibration.txt", lines=900)), SilentReporter())


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every part is one batch."""
    monkeypatch.setattr(imatrix_parts, "_PART_S", 0.0)
    monkeypatch.setattr(imatrix_parts, "_LOADS", 0.0)


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


@pytest.fixture
def whole(gguf: GgufFile, session: Session, tmp_path: Path) -> Callable[[Corpus, int], bytes]:
    """The matrix of a text, made in one part."""

    def make(text: Corpus, n_chunks: int) -> bytes:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(imatrix_parts, "_PART_S", 1e9)
            made = make_imatrix(gguf, text, tmp_path / "whole.imatrix", options(n_chunks), session)
        assert len(made.manifest.argv) == 1
        return made.path.read_bytes()

    return make


Whole = Callable[[Corpus, int], bytes]


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("directory", ["plain", 'a, b "c"'])
def test_parts_give_the_same_bytes(
    directory: str, gguf: GgufFile, text: Corpus, whole: Whole, session: Session, tmp_path: Path
) -> None:
    there = replace(session, workspace=Workspace(tmp_path / directory))
    with there.workspace.locked():
        output = tmp_path / directory / "parts.imatrix"
        parts = make_imatrix(gguf, text, output, options(2 * BATCH + 9), there)
    assert len(parts.manifest.argv) == 2
    assert parts.manifest.notes["calibration_source"] == text.name
    assert parts.path.read_bytes() == whole(text, 2 * BATCH + 9)
    assert leftovers(there) == []
    assert len(list((tmp_path / directory / "logs").iterdir())) == 2


def interrupt(part: int, gguf: GgufFile, text: Corpus, output: Path, n_chunks: int, session: Session) -> None:
    """Make a matrix, but no further than to the beginning of a part."""
    with pytest.MonkeyPatch.context() as patched:
        spy(patched, fail_at=part)
        with pytest.raises(KeyboardInterrupt):
            make_imatrix(gguf, text, output, options(n_chunks), session)


@pytest.mark.usefixtures("small_parts")
def test_an_interrupted_one_goes_on(
    gguf: GgufFile, text: Corpus, whole: Whole, session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "m.imatrix"
    interrupt(3, gguf, text, output, 4 * BATCH, session)
    assert not output.exists()
    assert len(leftovers(session)) == 2
    commands = spy(monkeypatch)
    made = make_imatrix(gguf, text, output, options(4 * BATCH), session)
    assert [c[c.index("--chunk") + 1] for c in commands] == ["64", "96"]
    assert made.path.read_bytes() == whole(text, 4 * BATCH)
    assert leftovers(session) == []


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("damage", ["truncated", "other text", "force"])
def test_what_is_left_of_another_one_is_not_used(
    damage: str, gguf: GgufFile, text: Corpus, session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "m.imatrix"
    interrupt(2, gguf, text, output, 2 * BATCH, session)
    (left,) = session.workspace.private.glob("*.sums")
    if damage == "truncated":
        left.write_bytes(left.read_bytes()[:-40])
    elif damage == "other text":
        Path(text.path).write_text(text.path.read_text().replace("a", "e"))
        text = corpus.resolve(str(text.path), SilentReporter())
    else:
        session = Session(session.tools, session.workspace, threads=2, force=True)
    commands = spy(monkeypatch)
    make_imatrix(gguf, text, output, options(2 * BATCH), session)
    assert len(commands) == 2
    assert "--chunk" not in commands[0]


def test_an_output_matrix_has_data_if_asked_also_under_the_name_of_the_embedding(
    gguf: GgufFile, text: Corpus, session: Session, tmp_path: Path
) -> None:
    tied = to_gguf(tiny.tie(tiny.write_llama(tmp_path / "tied", layers=1)), session)
    tied = division.divide(tied, tied.stat().st_size * 2 // 3, SilentReporter())
    for base, output in ((gguf, "output.weight"), (sources.open_gguf(tied), "token_embd.weight")):
        files = [tmp_path / f"{output}-{asked}.imatrix" for asked in (False, True)]
        for file, asked in zip(files, (False, True), strict=True):
            make_imatrix(base, text, file, replace(options(8), process_output=asked), session)
        plain, wanted = (imatrix.read_imatrix(file) for file in files)
        assert set(wanted) - set(plain) == {output}
        assert wanted[output].n_columns == read_header(base.path).by_name[output].shape[0]
        both = [{t.name: t.data.tobytes() for t in GGUFReader(file).tensors} for file in files]
        assert both[0].items() <= both[1].items()
        assert importance.dataset(files[1]) == importance.dataset(files[0])
    assert not list(session.workspace.scratch.glob("*.gguf"))


def text_of(n_chunks: int, gguf: GgufFile, tools: Toolchain, file: Path) -> Corpus:
    """A text of so many chunks and a bit."""
    words = tiny.text_file(file, lines=900).read_text().split()
    assert tools.source is not None
    contents = [" ".join(words[:n]) for n in range(n_chunks * 16, n_chunks * 64, 7)]
    for content, ids in zip(contents, vocab.tokenize(tools.dir, tools.source, gguf.path, contents), strict=True):
        if (len(ids) + 1) // N_CTX == n_chunks:
            file.write_text(content)
            return corpus.resolve(str(file), SilentReporter())
    raise AssertionError(f"no text of {n_chunks} chunks")


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("left", [0, 1, 2, 3])
def test_a_text_that_ends_early(
    left: int, gguf: GgufFile, whole: Whole, session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of it, also where llama-imatrix refuses to begin with what is left after a part."""
    text = text_of(2 * BATCH + left, gguf, session.tools, tmp_path / "short.txt")
    expected = whole(text, 100 * BATCH)
    commands = spy(monkeypatch)
    made = make_imatrix(gguf, text, tmp_path / "m.imatrix", options(100 * BATCH), session)
    assert made.path.read_bytes() == expected
    begun = [c[c.index("--chunk") + 1] if "--chunk" in c else "0" for c in commands]
    assert begun == ["0", "32", "64"] + ["32"] * (left < 2)
    assert leftovers(session) == []


def test_a_tool_that_does_not_say_how_much_it_took(gguf: GgufFile) -> None:
    with pytest.raises(ToolOutputError, match="how many chunks"):
        imatrix._counted(ToolOutput(("llama-imatrix",), 0, "", "", 1.0))


@pytest.mark.parametrize(
    ("code", "said", "expected"),
    [
        (1, "tokenizing the input ..\nthere will be not enough tokens left", True),
        (1, "tokenizing the input ..", True),  # the line with the reason was lost
        (1, "tokenizing the input ..\ncomputing over 8 chunks\nfailed to eval", False),
        (1, "failed to load model", False),
        (-6, "tokenizing the input ..", False),
        (0, "tokenizing the input ..", False),
    ],
)
def test_too_little_text_is_known_without_the_last_line(code: int, said: str, expected: bool) -> None:
    assert imatrix._found_too_little(ToolOutput(("llama-imatrix",), code, "", said, 1.0)) == expected


@pytest.mark.parametrize(
    ("done", "total", "n_ctx", "pace", "expected"),
    [
        (0, 128, 512, Pace(0.1), 128),    # quick: at once
        (0, 128, 512, Pace(20), 28),      # ten minutes, in batches of four
        (28, 128, 512, Pace(20), 28),
        (96, 128, 512, Pace(20), 28),     # four are left for a last part
        (100, 128, 512, Pace(20), 28),
        (98, 128, 512, Pace(20), 30),     # no last part of two
        (0, 128, 512, Pace(9000), 4),     # never less than a batch
        (4, 128, 512, Pace(20, 700), 124),  # loading takes a third of it: never mind parts
        (4, 512, 512, Pace(20, 300), 60),
        (0, 16, 4096, Pace(700), 1),
        (12, 16, 4096, Pace(700), 1),
        (13, 16, 4096, Pace(700), 3),     # the tool begins no part with two chunks left
    ],
)  # fmt: skip
def test_how_long_parts_are(done: int, total: int, n_ctx: int, pace: Pace, expected: int) -> None:
    assert imatrix_parts.next_part(done, total, n_ctx, pace) == expected
