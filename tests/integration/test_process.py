"""Tools are streamed, logged, and never outlive the command that started them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from ggufkit.core import failures, process
from ggufkit.core.errors import Interrupted, ResourceError, ToolError
from ggufkit.core.hashing import sha256_file
from ggufkit.core.process import Surroundings, ToolOutput
from ggufkit.llama.gguf import read_gguf
from ggufkit.measure import bench
from ggufkit.measure.bench import BenchOptions
from ggufkit.steps.session import Session

PRINT_BOTH = "import sys; sys.stdout.write('out é\\n'); sys.stdout.flush(); sys.stderr.write('err\\n')"
SLEEP = "import time; print('up', flush=True); time.sleep(60)"


def python(code: str, **options: object) -> process.ToolOutput:
    return process.run([sys.executable, "-c", code], **options)  # type: ignore[arg-type]


def test_both_streams_are_kept_apart_and_logged(tmp_path: Path) -> None:
    seen: list[tuple[str, str]] = []
    output = python(PRINT_BOTH, log=tmp_path / "x.log", on_text=lambda stream, text: seen.append((stream, text)))
    assert (output.stdout, output.stderr, output.returncode) == ("out é\n", "err\n", 0)
    log = (tmp_path / "x.log").read_text()
    assert log.startswith("$ ")
    assert "out é\n" in log
    assert "err\n" in log
    assert {stream for stream, _ in seen} == {"stdout", "stderr"}


def test_characters_split_between_reads() -> None:
    code = (
        "import sys, time\n"
        "for b in 'é€🙂'.encode(): sys.stdout.buffer.write(bytes([b])); sys.stdout.flush(); time.sleep(.01)"
    )
    assert python(code).stdout == "é€🙂"


def test_input_environment_and_directory(tmp_path: Path) -> None:
    code = "import os, sys; print(sys.stdin.read(), os.environ['X'], os.getcwd())"
    output = python(code, stdin=b"in", surroundings=Surroundings({"X": "y"}, tmp_path))
    assert output.stdout.split() == ["in", "y", str(tmp_path.resolve())]


def test_tools_read_no_options_of_the_user_s_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMA_ARG_CACHE_TYPE_K", "q8_0")
    code = "import os; print(*(name for name in os.environ if name.startswith('LLAMA_ARG_')))"
    output = python(code, surroundings=Surroundings({"LLAMA_ARG_FIT": "off"}))
    assert output.stdout.split() == ["LLAMA_ARG_FIT"]


@pytest.mark.skipif(sys.platform != "linux", reason="processor affinity is Linux's")
def test_processors_can_be_given() -> None:
    cpu = min(os.sched_getaffinity(0))
    assert python(
        "import os; print(os.sched_getaffinity(0))", surroundings=Surroundings(cpus=[cpu])
    ).stdout.strip() == str({cpu})


def test_a_program_that_is_not_there() -> None:
    with pytest.raises(ToolError, match="cannot be run"):
        process.run(["/no/such/tool"])


@pytest.mark.parametrize(
    ("code", "kind", "message"),
    [
        ("import sys; print('error: bad weights'); sys.exit(3)", ToolError, r"exit code 3\): error: bad weights"),
        ("import os; os.kill(os.getpid(), 9)", ToolError, "killed by SIGKILL"),
        ("import os; os.kill(os.getpid(), 11)", ToolError, "killed by SIGSEGV"),
        ("import os; os.kill(os.getpid(), 4)", ToolError, "killed by SIGILL"),
        ("import sys; sys.exit('write: No space left on device')", ResourceError, "disk filled up"),
        ("import sys; sys.exit(1)", ToolError, "it printed nothing"),
        (
            "print('llama_model_load: error loading model: missing tensor x'); exit('error: unable to load model')",
            ToolError,
            ": error loading model: missing tensor x",
        ),
    ],
)
def test_bad_ends_are_explained(tmp_path: Path, code: str, kind: type[Exception], message: str) -> None:
    output = python(code, log=tmp_path / "x.log")
    with pytest.raises(kind, match=message) as caught:
        failures.require_success(output, "testing a.gguf")
    assert "testing a.gguf" in str(caught.value)
    assert caught.value.log == tmp_path / "x.log"  # type: ignore[attr-defined]


@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="limits of file sizes")
def test_a_file_that_may_not_be_so_large(tmp_path: Path) -> None:
    """A tool is ended by the signal that Python ignores, and so ggufkit would pass on ignored."""
    output = process.run(["sh", "-c", f"ulimit -f 1; exec head -c 100000 /dev/zero > {tmp_path}/x"])
    with pytest.raises(ResourceError, match=r"cannot go on testing a\.gguf: a file may not be so large") as caught:
        failures.require_success(output, "testing a.gguf")
    assert "ulimit -f" in str(caught.value.hint)


def test_cancel_ends_a_tool_at_once() -> None:
    cancel = threading.Event()
    threading.Timer(0.3, cancel.set).start()
    started = time.monotonic()
    with pytest.raises(Interrupted):
        python(SLEEP, cancel=cancel)
    assert time.monotonic() - started < 5


def test_stop_all_ends_every_tool_and_its_children() -> None:
    """A tool's own children die with it: the whole process group is signalled."""
    family = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(61)'])"
    errors: list[BaseException] = []

    def work() -> None:
        try:
            python(family)
        except Interrupted as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    wait_for(lambda: len(sleepers("time.sleep(61)")) >= 1)
    try:
        process.stop_all()
        thread.join(timeout=10)
        assert len(errors) == 1
        wait_for(lambda: not sleepers("time.sleep(61)"))
        with pytest.raises(Interrupted):
            python("print()")
    finally:
        process._stopping.clear()


@pytest.mark.skipif(sys.platform != "linux", reason="the parent-death signal is Linux's")
def test_a_tool_dies_with_a_killed_ggufkit() -> None:
    sleep = SLEEP.replace("60", "62")
    code = f"from ggufkit.core import process; import sys; process.run([sys.executable, '-c', {sleep!r}])"
    parent = subprocess.Popen([sys.executable, "-c", code])
    wait_for(lambda: bool(sleepers("time.sleep(62)", besides=parent.pid)))
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    wait_for(lambda: not sleepers("time.sleep(62)"))


def sleepers(mark: str, besides: int = 0) -> list[int]:
    """Processes whose command line holds `mark`."""
    found = []
    for candidate in psutil.process_iter(["pid", "cmdline"]):
        line = candidate.info["cmdline"] or []
        if mark in " ".join(line) and candidate.pid not in (besides, os.getpid()):
            found.append(candidate.pid)
    return found


def wait_for(condition: object, timeout: float = 10.0) -> None:
    deadline = time.monotonic() + timeout
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_pause_is_not_timed() -> None:
    threading.Timer(0.3, lambda: _pause_for(0.7)).start()
    output = process.run([sys.executable, "-c", "import time; time.sleep(1.5)"])
    assert output.returncode == 0
    assert output.paused_s >= 0.7
    assert output.duration_s < 1.4
    assert process.run([sys.executable, "-c", ""]).paused_s == 0


def _pause_for(seconds: float) -> None:
    with process.paused():
        time.sleep(seconds)


def test_a_speed_with_a_pause_in_it_is_measured_again(
    base: Path, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs: list[ToolOutput] = []
    run = process.run

    def run_and_pause_once(argv: Sequence[str], **more: Any) -> ToolOutput:
        outputs.append(replace(run(argv, **more), paused_s=0.0 if outputs else 9.0))
        return outputs[-1]

    monkeypatch.setattr(process, "run", run_and_pause_once)
    bench.bench(read_gguf(base, sha256_file(base)), BenchOptions(n_prompt=16, n_gen=4, repetitions=1), session)
    assert [o.paused_s for o in outputs] == [9.0, 0.0]
