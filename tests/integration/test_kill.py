"""SIGKILL at any moment: the same command finishes the work, and no final name was ever on half a file."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ggufkit.core.errors import GgufError
from ggufkit.core.manifest import read_manifest
from ggufkit.core.records import Toolchain
from ggufkit.llama.gguf import read_gguf
from tests import tiny
from tests.integration.run_cli import ggufkit as cli
from tests.integration.run_cli import start

MOMENTS = 20


def build(model: Path, corpus: Path, out: Path) -> list[str]:
    options = ["--types", "q4_k_m,q8_0", "--corpus", str(corpus), "--ctx", "64", "--chunks", "8", "--no-bench"]
    return ["build", str(model), *options, "--threads", "2", "--out", str(out)]


def contents(out: Path) -> dict[str, bytes]:
    """What a build leaves that does not depend on when or how fast it ran."""
    files = {f.name: f.read_bytes() for f in out.glob("*.gguf")}
    import ggufkit

    table = ggufkit.load_results(out).drop(columns=["eval_tps"])
    return files | {"results": table.to_csv(index=False).encode()}


class Watcher(threading.Thread):
    """Looks at every final name, all the time: each must be whole whenever it is there."""

    def __init__(self, out: Path) -> None:
        super().__init__(daemon=True)
        self.out = out
        self.broken: list[str] = []
        self.done = threading.Event()
        self._seen: dict[Path, tuple[int, int, int]] = {}

    def run(self) -> None:
        while not self.done.wait(0.005):
            for file in self.out.glob("*.gguf"):
                try:
                    self._look_at(file)
                except FileNotFoundError:
                    continue
                except GgufError as error:
                    self.broken.append(str(error))

    def _look_at(self, file: Path) -> None:
        status = file.stat()
        state = (status.st_ino, status.st_size, status.st_mtime_ns)
        if self._seen.get(file) != state:
            read_gguf(file)
            self._seen[file] = state


@pytest.mark.timeout(900)
def test_killed_at_random_moments(tmp_path: Path, tools: Toolchain) -> None:
    model = tiny.write_llama(tmp_path / "model", width=512)
    corpus = tiny.text_file(tmp_path / "text.txt", 1500)
    started = time.monotonic()
    assert cli(*build(model, corpus, tmp_path / "whole")).code == 0
    whole = time.monotonic() - started
    expected = contents(tmp_path / "whole")
    base = tmp_path / "model.gguf"  # three of four builds start from it
    base.write_bytes(expected["model-F16.gguf"])
    started = time.monotonic()
    assert cli(*build(base, corpus, tmp_path / "from-base")).code == 0
    from_base = (base, time.monotonic() - started)
    sources = [(model, whole), *[from_base] * 3]

    moments = random.Random(7)
    shares = [moments.uniform(0.05, 0.97) for _ in range(MOMENTS)]

    def kill_and_repeat(number: int) -> bool:
        """Whether the build was still running at its moment."""
        out, (source, duration) = tmp_path / f"out{number}", sources[number % 4]
        watcher = Watcher(out)
        watcher.start()
        running = start(*build(source, corpus, out))
        running.join(shares[number] * duration)
        killed = running.exitcode is None
        running.kill()
        running.join()
        again = cli(*build(source, corpus, out))
        watcher.done.set()
        watcher.join()
        assert again.code == 0, again.err
        assert watcher.broken == []
        assert contents(out) == expected
        assert not list(out.glob("*.partial"))
        assert all(read_manifest(f) is not None for f in out.glob("*.gguf"))
        return killed

    with ThreadPoolExecutor(2) as pool:
        killed = list(pool.map(kill_and_repeat, range(MOMENTS)))
    assert sum(killed) >= MOMENTS // 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_polite_stop(tmp_path: Path, tools: Toolchain, number: int) -> None:
    model = tiny.write_llama(tmp_path / "model")
    corpus = tiny.text_file(tmp_path / "text.txt", 4000)
    argv = build(model, corpus, tmp_path / "out")
    running = subprocess.Popen([sys.executable, "-m", "ggufkit", *argv], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (tmp_path / "out" / "logs").is_dir() and time.monotonic() < deadline:
        time.sleep(0.02)
    running.send_signal(number)
    _, err = running.communicate(timeout=20)
    assert running.returncode == 130
    assert "the same command goes on from there" in err
    assert not list((tmp_path / "out").glob("*.partial"))
    assert cli(*argv).code == 0


def tool_states(parent: int) -> list[str]:
    """How the tools of a running ggufkit are doing: R, S, T (stopped) …"""
    states = []
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            fields = dict(line.split(":\t", 1) for line in status.read_text().splitlines() if ":\t" in line)
        except OSError:
            continue
        if fields.get("PPid") == str(parent) and fields.get("Name", "").startswith("llama-"):
            states.append(fields["State"][0])
    return states


def wait_for(what: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="looks at processes in /proc")
def test_a_pause(base: Path, tmp_path: Path) -> None:
    corpus = tiny.text_file(tmp_path / "text.txt", 3000)
    # A group of its own, with a parent in another one: else the system lets nobody suspend it.
    start = "import os; os.setpgid(0, 0); from ggufkit.cli import main; main()"
    options = ["perplexity", str(base), "--corpus", str(corpus), "--ctx", "64"]
    running = subprocess.Popen([sys.executable, "-c", start, *options], stdout=subprocess.DEVNULL)
    try:
        wait_for(lambda: tool_states(running.pid) not in ([], ["T"]))
        running.send_signal(signal.SIGTSTP)
        wait_for(lambda: tool_states(running.pid) == ["T"])
        running.send_signal(signal.SIGCONT)
        assert running.wait(120) == 0
    finally:
        running.kill()
