"""KL divergence by the real tools: every way of streaming gives the same figures, and no death goes unnoticed."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import psutil
import pytest

from ggufkit.core import failures, process
from ggufkit.core.errors import ToolError
from ggufkit.core.hashing import sha256_file
from ggufkit.core.process import ToolOutput
from ggufkit.core.records import GgufFile, Toolchain
from ggufkit.llama import argv, kld, logs
from ggufkit.llama.argv import Quantization
from ggufkit.llama.gguf import read_gguf
from ggufkit.measure import divergence, perplexity
from ggufkit.measure.evaluation import EvalOptions, Evaluation
from ggufkit.measure.logits import pipes
from ggufkit.measure.logits.precision import PILOT
from ggufkit.measure.logits.strategy import Transport
from ggufkit.measure.measurements import Figure, load
from ggufkit.models.sources import resolve
from ggufkit.steps.convert import ConvertOptions, convert
from ggufkit.steps.session import Session
from ggufkit.steps.step import Workspace
from ggufkit.texts import corpus
from ggufkit.texts.corpus import Corpus
from tests import tiny
from tests.listening import Listener

T = TypeVar("T")
Figures = dict[str, dict[str, Figure]]
KILLS = int(os.environ.get("STREAM_KILLS", "6"))
GIB = 1 << 30
OPTIONS = EvalOptions(n_ctx=64, n_chunks=24)
needs_pipes = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")


@pytest.fixture(scope="module")
def files(tools: Toolchain, tmp_path_factory: pytest.TempPathFactory) -> list[GgufFile]:
    """A tiny base and two files made from it."""
    root = tmp_path_factory.mktemp("model")
    model = resolve(str(tiny.write_llama(root / "tiny")))
    session = Session(tools, Workspace(root / "out"), threads=2)
    with session.workspace.locked():
        base = root / "out" / "tiny-F16.gguf"
        made = convert(model, base, ConvertOptions("f16"), session)  # type: ignore[arg-type]
    found = [read_gguf(base, made.sha256)]
    for kind in ("Q4_0", "Q8_0"):
        path = root / "out" / f"tiny-{kind}.gguf"
        failures.require_success(
            process.run(argv.quantize(tools, Quantization(base, kind), path, 2)), "quantizing"
        )
        found.append(read_gguf(path, sha256_file(path)))
    return found


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return corpus.open_text(tiny.text_file(tmp_path_factory.mktemp("text") / "text.txt"))


@contextlib.contextmanager
def at_work(tools: Toolchain, root: Path, **more: object) -> Iterator[Session]:
    session = Session(tools, Workspace(root), Listener(), threads=2, **more)  # type: ignore[arg-type]
    with session.workspace.locked():
        yield session


def figures(results: list[object]) -> Figures:
    """All measurements but the speed, by file."""
    return {
        result.path.name: {m.metric: (m.value, m.stderr) for m in load(result.path) if m.metric != "eval_tps"}  # type: ignore[attr-defined]
        for result in results
    }


def measure(files: list[GgufFile], text: Corpus, session: Session, **how: object) -> Figures:
    transport = Transport(**{"scratch_limit": GIB, **how})  # type: ignore[arg-type]
    return figures(
        list(divergence.measure_all(files[0], files[1:], Evaluation(text, OPTIONS, session), transport))
    )


@needs_pipes
def test_every_strategy_gives_the_figures_of_the_raw_tools(
    tools: Toolchain, files: list[GgufFile], text: Corpus, tmp_path: Path
) -> None:
    found = {}
    for strategy in ("file", "pipe", "fan-out"):
        with at_work(tools, tmp_path / strategy) as session:
            found[strategy] = measure(files, text, session, strategy=strategy)
            assert list(session.workspace.scratch.iterdir()) == []
    assert found["file"] == found["pipe"] == found["fan-out"]
    assert found["file"] == raw_figures(tools, files, text, tmp_path)


def raw_figures(tools: Toolchain, files: list[GgufFile], text: Corpus, directory: Path) -> Figures:
    """The same by the tools alone, one after the other."""
    tool, logits = str(tools.binary("llama-perplexity")), str(directory / "raw.logits")
    common = ["-c", "64", "-t", "2", "-ngl", "0"]
    head = [tool, "-m", str(files[0].path), "-f", str(text.path), "--chunks", "24", *common]
    base = until_whole([*head, "--kl-divergence-base", logits], logs.parse_perplexity)
    found: Figures = {"tiny-F16.perplexity.json": {"ppl": (base.ppl, base.stderr)}}
    for file in files[1:]:
        command = [tool, "-m", str(file.path), *common, "--kl-divergence", "--kl-divergence-base", logits]
        d = until_whole(command, kld.parse_divergence)
        found[f"{file.path.stem}.divergence.json"] = {
            name: value for name, value in divergence.values_of(d, 1.0).items() if name != "eval_tps"
        }
    return found


def until_whole(command: list[str], parse: Callable[[ToolOutput], T]) -> T:
    """Under load the tool can lose the end of its output."""
    for _ in range(5):
        with contextlib.suppress(ToolError):
            return parse(process.run(command))
    raise AssertionError("no statistics five times")


def test_what_is_there_is_kept_and_a_new_file_is_added(
    tools: Toolchain, files: list[GgufFile], text: Corpus, tmp_path: Path
) -> None:
    with at_work(tools, tmp_path) as session:
        first = divergence.measure_all(files[0], files[1:2], Evaluation(text, OPTIONS, session), Transport(GIB))
        assert [r.fresh for r in first] == [False, False]
        again = divergence.measure_all(files[0], files[1:2], Evaluation(text, OPTIONS, session), Transport(GIB))
        assert [r.fresh for r in again] == [True, True]
        more = divergence.measure_all(files[0], files[1:], Evaluation(text, OPTIONS, session), Transport(GIB))
        assert more[1].fresh
        assert not more[2].fresh
        assert load(more[2].path)[0].conditions.base_sha256 == files[0].sha256


def test_tokens_per_second_are_those_of_the_wall_clock(
    tools: Toolchain, files: list[GgufFile], text: Corpus, tmp_path: Path
) -> None:
    with at_work(tools, tmp_path) as session:
        for result in divergence.measure_all(
            files[0], files[1:], Evaluation(text, OPTIONS, session), Transport(GIB)
        ):
            assert result.manifest.notes["corpus"] == text.name
            tps = next(m.value for m in load(result.path) if m.metric == "eval_tps")
            assert tps * float(str(result.manifest.notes["tool_s"])) == pytest.approx(24 * 64, rel=0.01)


@needs_pipes
@pytest.mark.parametrize("limit", [60_000, 10_000_000])
def test_scratch_stays_under_the_limit(
    tools: Toolchain, files: list[GgufFile], text: Corpus, tmp_path: Path, limit: int
) -> None:
    with at_work(tools, tmp_path) as session, watching(session.workspace.scratch) as peak:
        measure(files, text, session, scratch_limit=limit)
        strategy = session.reporter.said[0]  # type: ignore[attr-defined]
    assert peak[0] <= limit
    assert ("by fan-out" in strategy) == (limit < 1_000_000)
    assert (peak[0] > 0) == (limit > 1_000_000)


@contextlib.contextmanager
def watching(directory: Path) -> Iterator[list[int]]:
    """The most bytes that the files of a directory took at any moment."""
    peak, done = [0], threading.Event()

    def look() -> None:
        while not done.wait(0.002):
            with contextlib.suppress(FileNotFoundError):
                peak[0] = max(peak[0], sum(f.stat().st_size for f in directory.iterdir()))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()


def test_without_named_pipes_fewer_chunks_are_evaluated_and_that_is_said(
    tools: Toolchain, files: list[GgufFile], text: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipes, "supported", lambda _: False)
    with at_work(tools, tmp_path) as session, watching(session.workspace.scratch) as peak:
        limit = 340_000
        results = divergence.measure_all(files[0], files[1:], Evaluation(text, OPTIONS, session), Transport(limit))
        chunks = {load(r.path)[0].conditions.n_chunks for r in results}
        (warning,) = session.reporter.warnings  # type: ignore[attr-defined]
    assert len(chunks) == 1
    (n,) = chunks
    assert n is not None
    assert 4 <= n < 24
    assert f"Only {n} chunks are evaluated" in warning
    assert 0 < peak[0] <= limit


def test_a_precision_takes_the_chunks_it_needs_and_the_same_for_all(
    tools: Toolchain, files: list[GgufFile], text: Corpus, tmp_path: Path
) -> None:
    options = EvalOptions(n_ctx=64, precision=0.04)
    with at_work(tools, tmp_path) as session:
        results = divergence.measure_all(files[0], files[1:], Evaluation(text, options, session), Transport(GIB))
        again = divergence.measure_all(files[0], files[1:], Evaluation(text, options, session), Transport(GIB))
    assert all(r.fresh for r in again)
    chunks = {load(r.path)[0].conditions.n_chunks for r in results}
    assert len(chunks) == 1
    whole = text.n_bytes // 64
    assert PILOT <= (chunks.pop() or 0) < whole
    for result in results[1:]:
        mean = next(m for m in load(result.path) if m.metric == "kld_mean")
        assert (mean.stderr or 0) <= 0.04 * mean.value


def fake(tools: Toolchain, directory: Path, script: str) -> Toolchain:
    """The toolchain with another llama-perplexity; `$REAL` is the true one."""
    directory.mkdir()
    for file in tools.dir.iterdir():
        (directory / file.name).symlink_to(file)
    tool = directory / "llama-perplexity"
    tool.unlink()
    tool.write_text(f"#!/bin/bash\nREAL={tools.dir}/llama-perplexity\n{script}\n")
    tool.chmod(0o755)
    return replace(tools, dir=directory)


SPOIL = """
if [[ "$*" != *"--kl-divergence "* ]]; then exec "$REAL" "$@"; fi
"$REAL" "$@" | sed -E "s/^( +9 +) +[0-9.]+ /\\1      nan /"
"""
LOSE = 'if [[ "$*" == *"--kl-divergence "* ]] && {when}; then "$REAL" "$@" | sed "/=====/,\\$d"; else exec "$REAL" "$@"; fi'


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in is a shell script")
@pytest.mark.parametrize("strategy", ["file", "fan-out"])
def test_lost_statistics_are_asked_for_again(
    tools: Toolchain, files: list[GgufFile], text: Corpus, tmp_path: Path, strategy: str
) -> None:
    once = f'[[ "$*" == *Q4_0* ]] && mkdir "{tmp_path}/lost" 2>/dev/null'
    broken = fake(tools, tmp_path / "fake", LOSE.replace("{when}", once))
    with at_work(broken, tmp_path / "out") as session:
        found = measure(files, text, session, strategy=strategy)
        assert any("Trying once more" in line for line in session.reporter.said)  # type: ignore[attr-defined]
    with at_work(tools, tmp_path / "right") as session:
        assert measure(files, text, session) == found


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in is a shell script")
def test_statistics_that_never_come_are_an_error(
    tools: Toolchain, files: list[GgufFile], text: Corpus, tmp_path: Path
) -> None:
    broken = fake(tools, tmp_path / "fake", LOSE.replace("{when}", '[[ "$*" == *Q4_0* ]]'))
    with at_work(broken, tmp_path / "out") as session:
        with pytest.raises(ToolError, match=r"no KL divergence statistics for tiny-Q4_0\.gguf"):
            measure(files, text, session)
        kept = divergence.result_path(files[2], session)
        assert kept.is_file()  # what was finished stays


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in is a shell script")
def test_a_nan_names_file_and_chunk(tools: Toolchain, files: list[GgufFile], text: Corpus, tmp_path: Path) -> None:
    broken = fake(tools, tmp_path / "fake", SPOIL)
    with (
        at_work(broken, tmp_path / "out") as session,
        pytest.raises(ToolError, match=r"tiny-Q4_0\.gguf .*chunk 9"),
    ):
        measure(files, text, session)


def test_too_few_tokens_for_statistics_still_give_perplexity(
    tools: Toolchain, files: list[GgufFile], text: Corpus, tmp_path: Path
) -> None:
    with at_work(tools, tmp_path) as session:
        options = EvalOptions(n_ctx=64, n_chunks=2)
        results = divergence.measure_all(files[0], files[1:], Evaluation(text, options, session), Transport(GIB))
        assert "too few for KL divergence" in session.reporter.warnings[0]  # type: ignore[attr-defined]
    assert [r.path.name for r in results] == [f"{f.path.stem}.perplexity.json" for f in files]
    assert perplexity.result_path(files[0], session).is_file()


@needs_pipes
@pytest.mark.skipif(sys.platform != "linux", reason="processes are found by their command lines in /proc")
@pytest.mark.timeout(900)
@pytest.mark.alone
def test_the_death_of_any_process_ends_the_command(
    tools: Toolchain, files: list[GgufFile], tmp_path: Path
) -> None:
    """Any process, any moment: exit code 5 within 5 seconds, the dead one is named, nothing is left."""
    long = tiny.text_file(tmp_path / "long.txt", lines=20_000)
    rng = random.Random(0)
    for i in range(KILLS):
        out = tmp_path / f"out{i}"
        linked = link_all(files, out)
        command = [sys.executable, "-m", "ggufkit", "perplexity", *map(str, linked[1:]), "--base", str(linked[0]),
                   "--corpus", str(long), "--ctx", "64", "--strategy", "fan-out", "--threads", "2"]  # fmt: skip
        env = {**os.environ, "GGUFKIT_LLAMA_CPP": str(tools.dir), "COLUMNS": "200"}
        ran = subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)
        tool = victim(out, i % len(files), files)
        time.sleep(rng.uniform(0, 2))
        killed = time.monotonic()
        tool.kill()
        _, said = ran.communicate(timeout=30)
        assert time.monotonic() - killed < 5, said
        assert ran.returncode == 5, said
        assert (
            f"was killed by SIGKILL while {['evaluating the base ', 'comparing '][i % 3 > 0]}{linked[i % 3].name}"
            in said
        )
        assert strays(out) == []
        assert list((out / ".ggufkit" / "scratch").iterdir()) == []


@needs_pipes
@pytest.mark.skipif(sys.platform != "linux", reason="processes are found by their command lines in /proc")
def test_ctrl_c_while_streaming(tools: Toolchain, files: list[GgufFile], tmp_path: Path) -> None:
    out = tmp_path / "out"
    linked = link_all(files, out)
    long = tiny.text_file(tmp_path / "long.txt", lines=20_000)
    command = [sys.executable, "-m", "ggufkit", "perplexity", *map(str, linked[1:]), "--base", str(linked[0]),
               "--corpus", str(long), "--ctx", "64", "--strategy", "fan-out", "--threads", "2"]  # fmt: skip
    env = {**os.environ, "GGUFKIT_LLAMA_CPP": str(tools.dir)}
    ran = subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)
    victim(out, 1, files)
    time.sleep(0.5)
    ran.send_signal(signal.SIGINT)
    _, said = ran.communicate(timeout=10)
    assert ran.returncode == 130, said
    assert "Traceback" not in said
    assert strays(out) == []
    assert list((out / ".ggufkit" / "scratch").iterdir()) == []


def link_all(files: list[GgufFile], out: Path) -> list[Path]:
    """The files under another directory, so that its processes can be told from others'."""
    out.mkdir()
    linked = [out / file.path.name for file in files]
    for link, file in zip(linked, files, strict=True):
        os.link(file.path, link)
    return linked


def victim(out: Path, which: int, files: list[GgufFile]) -> psutil.Process:
    """Wait for one of the tools that work in a directory."""
    model = str(out / files[which].path.name)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for tool in strays(out):
            with contextlib.suppress(psutil.Error):
                words = tool.cmdline()
                if words[words.index("-m") + 1] == model and "llama-perplexity" in words[0]:
                    return tool
        time.sleep(0.02)
    raise AssertionError(f"{model} was never evaluated")


def strays(out: Path) -> list[psutil.Process]:
    """The tools whose command line names a directory."""
    found = []
    for candidate in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            words = candidate.cmdline()
            if words and words[0].endswith("llama-perplexity") and any(str(out) in word for word in words):
                found.append(candidate)
    return found


@needs_pipes
@pytest.mark.skipif(sys.platform != "linux", reason="processes are found by their command lines in /proc")
def test_leftovers_of_a_killed_command_are_removed(
    tools: Toolchain, files: list[GgufFile], text: Corpus, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    linked = link_all(files, out)
    long = tiny.text_file(tmp_path / "long.txt", lines=20_000)
    command = [sys.executable, "-m", "ggufkit", "perplexity", *map(str, linked[1:]), "--base", str(linked[0]), "--ctx",
               "64", "--threads", "2", "--json"]  # fmt: skip
    env = {**os.environ, "GGUFKIT_LLAMA_CPP": str(tools.dir)}
    ran = subprocess.Popen(
        [*command, "--corpus", str(long), "--strategy", "fan-out"], env=env, stderr=subprocess.DEVNULL
    )
    victim(out, 1, files)
    ran.send_signal(signal.SIGKILL)
    ran.wait()
    deadline = time.monotonic() + 5
    while strays(out) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert strays(out) == []
    scratch = out / ".ggufkit" / "scratch"
    assert list(scratch.iterdir()) != []
    again = subprocess.run(
        [*command, "--corpus", str(text.path), "--chunks", "8"],
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert again.returncode == 0, again.stderr
    assert set(json.loads(again.stdout)) == {file.path.name for file in files}
    assert list(scratch.iterdir()) == []
