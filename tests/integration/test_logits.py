"""Named pipes and linked processes, with small programs in place of llama-perplexity."""

from __future__ import annotations

import hashlib
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from ggufkit.core import process
from ggufkit.core.concurrency import Task, run_processes
from ggufkit.core.errors import Interrupted, ToolError
from ggufkit.core.process import ToolOutput
from ggufkit.measure.logits import pipes
from ggufkit.measure.logits.pipes import _Ring

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")

WRITE = """
import hashlib, os, sys
seen = hashlib.sha256()
with open(sys.argv[1], "wb", buffering=0) as out:
    for i in range(int(sys.argv[2])):
        block = os.urandom(1 << 20)
        seen.update(block)
        view = memoryview(block)
        while view: view = view[out.write(view):]
print(seen.hexdigest())
"""
READ = """
import hashlib, sys, time
seen = hashlib.sha256()
with open(sys.argv[1], "rb", buffering=0) as src:
    while block := src.read(1 << 18):
        seen.update(block)
        time.sleep(float(sys.argv[2]))
print(seen.hexdigest())
"""


def python(doing: str, code: str, *arguments: object) -> Task:
    """A task that runs a few lines of Python."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return Task(doing, lambda cancel: process.run(command, cancel=cancel))


def stream(directory: Path, megabytes: int, delays: Sequence[float], ahead: int = 0) -> list[ToolOutput]:
    """Write random bytes to as many readers as there are delays."""
    with pipes.named_pipes(directory, len(delays) + 1) as (source, *sinks):
        readers = [
            python(f"reading {i}", READ, sink, d) for i, (sink, d) in enumerate(zip(sinks, delays, strict=True))
        ]
        tasks = [python("writing", WRITE, source, megabytes), *readers]
        return run_processes(tasks, lambda cancel: pipes.pump(source, sinks, cancel, ahead))


@pytest.mark.parametrize("n_readers", [1, 2, 4])
@pytest.mark.parametrize("ahead", [0, 8 << 20, 1 << 30])
def test_every_reader_gets_every_byte(tmp_path: Path, n_readers: int, ahead: int) -> None:
    outputs = stream(tmp_path, 24, [0.0] * n_readers, ahead)
    assert len({output.stdout for output in outputs}) == 1
    assert outputs[0].stdout.strip() != hashlib.sha256().hexdigest()
    assert list(tmp_path.iterdir()) == []


def test_a_slow_reader_holds_the_others_back_and_nothing_piles_up(tmp_path: Path) -> None:
    import psutil

    me, before = psutil.Process(), psutil.Process().memory_info().rss
    started = time.monotonic()
    outputs = stream(tmp_path, 64, [0.0, 0.002])
    assert len({output.stdout for output in outputs}) == 1
    assert time.monotonic() - started > 64 * 4 * 0.002  # the fast one waited
    assert me.memory_info().rss - before < 48 << 20


def test_the_writer_may_be_ahead_by_a_bound() -> None:
    ring, written = _Ring(2, 4 << 20), []
    done = threading.Event()

    def write() -> None:
        for number in range(6):
            block = ring.free()
            assert block is not None
            block[:1] = bytes([number])
            ring.filled(1)
            written.append(number)
        done.set()

    def read(reader: int) -> int:
        value = ring.take(reader)[0]
        ring.done(reader)
        return value

    threading.Thread(target=write, daemon=True).start()
    assert [read(0) for _ in range(4)] == [0, 1, 2, 3]
    assert not done.wait(0.2)  # the slow reader has taken none: the writer waits at the bound
    assert written == [0, 1, 2, 3]
    assert [read(1) for _ in range(2)] == [0, 1]
    assert done.wait(2)
    assert [read(0), read(0), read(1)] == [4, 5, 2]


def test_a_pump_that_is_cancelled_before_anybody_came(tmp_path: Path) -> None:
    cancel = threading.Event()
    with pipes.named_pipes(tmp_path, 2) as (source, sink):
        pump = threading.Thread(target=pipes.pump, args=(source, [sink], cancel))
        pump.start()
        time.sleep(0.1)
        cancel.set()
        pump.join(timeout=2)
        assert not pump.is_alive()


DIE = "import os, signal, sys, time; time.sleep(float(sys.argv[1])); os.kill(os.getpid(), signal.SIGKILL)"
SLEEP = "import time; time.sleep(60)"


@pytest.mark.parametrize("victim", ["writing", "reading 0", "reading 1"])
def test_the_one_that_died_is_named_and_the_others_end(tmp_path: Path, victim: str) -> None:
    def task(doing: str, code: str, *arguments: object) -> Task:
        mortal = code.replace("seen.update(block)", "seen.update(block); n = globals().get('n', 0) + 1\n"
                              "        if n > 20: import os, signal; os.kill(os.getpid(), signal.SIGKILL)")  # fmt: skip
        return python(doing, mortal if doing == victim else code, *arguments)

    started = time.monotonic()
    with pipes.named_pipes(tmp_path, 3) as (source, *sinks):
        tasks = [
            task("writing", WRITE, source, 2000),
            task("reading 0", READ, sinks[0], 0),
            task("reading 1", READ, sinks[1], 0),
        ]
        with pytest.raises(ToolError, match=f"killed by SIGKILL while {victim}"):
            run_processes(tasks, lambda cancel: pipes.pump(source, sinks, cancel))
    assert time.monotonic() - started < 15
    assert list(tmp_path.iterdir()) == []


def test_one_that_is_seen_to_be_dead_later_than_its_pipes_is_named() -> None:
    def killed(cancel: threading.Event) -> ToolOutput:
        if cancel.wait(0.1):
            raise Interrupted("reader was stopped.")
        return ToolOutput(("reader",), -signal.SIGKILL, "", "", 0.1)

    tasks = [
        Task("writing", lambda _cancel: ToolOutput(("writer",), 1, "", "Broken pipe", 0.1)),
        Task("reading", killed),
    ]
    with pytest.raises(ToolError, match="killed by SIGKILL while reading"):
        run_processes(tasks, lambda _cancel: None)


@pytest.mark.parametrize("reader_first", [True, False])
def test_a_death_before_the_pipes_are_open(tmp_path: Path, reader_first: bool) -> None:
    started = time.monotonic()
    with pipes.named_pipes(tmp_path, 2) as (source, sink):
        dead, waiting = python("dying", DIE, 0.1), python("waiting", SLEEP)
        tasks = [waiting, dead] if reader_first else [dead, waiting]
        with pytest.raises(ToolError, match="while dying") as error:
            run_processes(tasks, lambda cancel: pipes.pump(source, [sink], cancel))
    assert error.value.exit_code == 5
    assert time.monotonic() - started < 5


def test_a_reader_that_leaves_early_is_an_error(tmp_path: Path) -> None:
    leave = "import sys; src = open(sys.argv[1], 'rb', buffering=0); src.read(1000); print('I have seen enough')"
    with pipes.named_pipes(tmp_path, 2) as (source, sink):
        tasks = [python("writing", WRITE, source, 500), python("reading", leave, sink)]
        with pytest.raises(ToolError, match=r"while (reading|writing)"):
            run_processes(tasks, lambda cancel: pipes.pump(source, [sink], cancel))


def test_no_named_pipes_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert pipes.supported(tmp_path / "new")

    def refuse(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "mkfifo", refuse)
    assert not pipes.supported(tmp_path)
    monkeypatch.delattr(os, "mkfifo")
    assert not pipes.supported(tmp_path)
