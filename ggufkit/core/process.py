"""Run a tool: stream it, time it, log it, and stop its whole process group. The only `import subprocess`."""

from __future__ import annotations

import codecs
import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from ggufkit.core import limits, oserrors
from ggufkit.core.errors import Interrupted, ResourceError, ToolError
from ggufkit.core.limits import Limits

OnText = Callable[[str, str], None]
"""Called with ("stdout" | "stderr", text) as it arrives; text ends anywhere, not only at line ends."""

Started = subprocess.Popen[bytes]

_GRACE_S = 2.0
_running: set[Started] = set()
_running_lock = threading.RLock()  # a signal may come while the main thread holds it
_stopping = threading.Event()
_pauses: list[float] = []
"""Seconds of each pause."""

# A tool must not outlive ggufkit, not even after SIGKILL: an orphan would go on writing beside the next
# run. Linux can arrange that for a process from inside only, hence this small program that becomes the tool.
_BECOME = """
import os, signal, sys
parent, cpus, limits = int(sys.argv[1]), sys.argv[2], sys.argv[3]
if hasattr(signal, "SIGXFSZ"): signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python ignores it: a tool would not say why
if sys.platform == "linux":
    import ctypes
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    if os.getppid() != parent: sys.exit(1)
    if cpus: os.sched_setaffinity(0, [int(c) for c in cpus.split(",")])
for limit in limits.split():
    import resource
    kind, value = getattr(resource, limit.split("=")[0]), int(limit.split("=")[1])
    hard = resource.getrlimit(kind)[1]
    resource.setrlimit(kind, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))
os.execvp(sys.argv[4], sys.argv[4:])
"""


@dataclass(frozen=True)
class ToolOutput:
    """What a tool printed and how it ended. `returncode` is negative for a signal.

    `duration_s` is wall time without that for which the user paused it, which is `paused_s`.
    """

    argv: tuple[str, ...]
    returncode: int
    stdout: str
    stderr: str
    duration_s: float
    log: Path | None = None
    paused_s: float = 0.0

    @property
    def text(self) -> str:
        """Both streams, one after the other."""
        return self.stdout + self.stderr


@dataclass(frozen=True)
class Surroundings:
    """Where a tool runs.

    Args:
        env: variables added to the environment.
        cwd: its working directory, ggufkit's own by default.
        cpus: processors that it may use, all by default (Linux; ignored elsewhere).
        limits: what it may use of time and memory; none by default, and not those of ggufkit itself.
    """

    env: Mapping[str, str] = field(default_factory=dict)
    cwd: Path | None = None
    cpus: Sequence[int] = ()
    limits: Limits | None = None


def run(
    argv: Sequence[str | Path],
    *,
    surroundings: Surroundings | None = None,
    stdin: bytes | None = None,
    log: Path | None = None,
    on_text: OnText | None = None,
    cancel: threading.Event | None = None,
) -> ToolOutput:
    """Run `argv` to its end and return what it printed, whatever its exit code.

    Args:
        stdin: what the tool reads; nothing by default.
        log: file that receives the whole output, both streams in the order of arrival, behind the command line.
        on_text: hears the output as it arrives.
        cancel: ends the tool when set.

    Raises:
        ToolError: the program could not be started.
        ResourceError: the log could not be written.
        Interrupted: `cancel` was set while it ran, or `stop_all` was called.
    """
    command = tuple(str(a) for a in argv)
    started, n_pauses = time.monotonic(), len(_pauses)
    proc = start(command, surroundings or Surroundings(), feed=stdin is not None)
    streams = {"stdout": _Stream(), "stderr": _Stream()}
    try:
        with _Log(log, command) as sink:
            cancelled = _pump(proc, streams, sink, on_text, stdin, cancel)
    except BaseException:
        end(proc)
        raise
    finally:
        forget(proc)
    if _stopping.is_set() or cancelled:
        raise Interrupted(f"{Path(command[0]).name} was stopped.", log=log)
    out, err = streams["stdout"].text(), streams["stderr"].text()
    paused = sum(_pauses[n_pauses:])
    return ToolOutput(command, proc.returncode, out, err, time.monotonic() - started - paused, log, paused)


def forget(proc: Started) -> None:
    """What has ended is no longer among what `stop_all` ends."""
    with _running_lock:
        _running.discard(proc)
    for pipe in (proc.stdout, proc.stderr):
        if pipe is not None:
            pipe.close()


def stop_all() -> None:
    """End every running tool with its process group; no further one starts."""
    _stopping.set()
    with _running_lock:
        procs = list(_running)
    _signal_all(signal.SIGTERM)
    deadline = time.monotonic() + _GRACE_S
    while any(p.poll() is None for p in procs) and time.monotonic() < deadline:
        time.sleep(0.02)
    for proc in procs:
        end(proc)


def go_on() -> None:
    """Let tools start again after `stop_all`: in a process that is there for the next one who has work."""
    _stopping.clear()


@contextlib.contextmanager
def paused() -> Iterator[None]:
    """Pause every running tool for the length of a context."""
    _signal_all(signal.SIGSTOP)
    began = time.monotonic()
    try:
        yield
    finally:
        _pauses.append(time.monotonic() - began)
        _signal_all(signal.SIGCONT)


def _signal_all(number: int) -> None:
    with _running_lock:
        procs = list(_running)
    for proc in procs:
        _signal_group(proc, number)


def start(command: tuple[str, ...], where: Surroundings, *, feed: bool, into: IO[bytes] | None = None) -> Started:
    """Start a tool; whoever does so ends it with `end`, or reads its output to the end.

    Args:
        feed: it gets a standard input that can be written to.
        into: a file that receives both of its streams, instead of pipes.

    Raises:
        ToolError: it could not be started.
        Interrupted: `stop_all` was called.
    """
    if _stopping.is_set():
        raise Interrupted(f"{Path(command[0]).name} was not started: ggufkit is stopping.")
    wrapped = command
    settings = limits.usual() if where.limits is None else where.limits.settings()
    if sys.platform == "linux" or settings:
        allowed = ",".join(map(str, where.cpus))
        held = " ".join(f"{name}={value}" for name, value in settings.items())
        wrapped = (sys.executable, "-I", "-S", "-c", _BECOME, str(os.getpid()), allowed, held, *command)
    if shutil.which(command[0]) is None:
        raise ToolError(f"{command[0]} cannot be run: it is not there, or not executable.")
    with _running_lock:
        proc = subprocess.Popen(
            wrapped,
            stdin=subprocess.PIPE if feed else subprocess.DEVNULL,
            stdout=into or subprocess.PIPE,
            stderr=into or subprocess.PIPE,
            env={**_inherited(), **where.env},
            cwd=where.cwd,
            start_new_session=True,
        )
        _running.add(proc)
    return proc


def detach(argv: Sequence[str | Path], log: Path) -> Started:
    """Start a program that goes on when ggufkit ends, whatever becomes of the terminal; what it says is added to a log.

    Raises:
        OSError: it could not be started, or the log not be written.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as sink:
        return subprocess.Popen(
            [str(word) for word in argv],
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            start_new_session=True,
        )


def _inherited() -> dict[str, str]:
    """The environment, without the options that llama.cpp's tools read there: no manifest would tell of them."""
    return {name: value for name, value in os.environ.items() if not name.startswith("LLAMA_ARG_")}


class _Stream:
    """One output stream, decoded as it arrives."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._parts: list[str] = []

    def feed(self, data: bytes) -> str:
        text = self._decoder.decode(data, final=not data)
        self._parts.append(text)
        return text

    def text(self) -> str:
        return "".join(self._parts)


class _Log:
    """The log file of one run, or nothing."""

    def __init__(self, path: Path | None, command: tuple[str, ...]) -> None:
        self._path = path
        self._command = command
        self._file: IO[bytes] | None = None

    def __enter__(self) -> _Log:
        if self._path is not None:
            with _log_written():
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._file = self._path.open("wb")
                self._file.write(f"$ {shlex.join(self._command)}\n".encode())
        return self

    def __exit__(self, *exc: object) -> None:
        if self._file is not None:
            self._file.close()

    def write(self, data: bytes) -> None:
        if self._file is not None:
            with _log_written():
                self._file.write(data)
                self._file.flush()


def _pump(
    proc: Started,
    streams: dict[str, _Stream],
    sink: _Log,
    on_text: OnText | None,
    stdin: bytes | None,
    cancel: threading.Event | None,
) -> bool:
    """Read both streams until they end, then reap the process; return whether `cancel` ended it.

    One that ended before that is heard: its end may be why the others are cancelled. The readers are threads of their
    own: they block until the process closes its ends, and are as many as it has streams.
    """
    lock, failed, cancelled = threading.Lock(), list[BaseException](), False

    def read(name: str, pipe: IO[bytes]) -> None:
        try:
            while data := os.read(pipe.fileno(), 1 << 16):
                with lock:
                    sink.write(data)
                    text = streams[name].feed(data)
                    if on_text is not None:
                        on_text(name, text)
        except BaseException as error:
            failed.append(error)

    pipes = {"stdout": proc.stdout, "stderr": proc.stderr}
    readers = [threading.Thread(target=read, args=(n, p), daemon=True) for n, p in pipes.items() if p is not None]
    for reader in readers:
        reader.start()
    _feed(proc, stdin)
    while any(reader.is_alive() for reader in readers):
        for reader in readers:
            reader.join(timeout=0.1)
        if failed or (cancel is not None and cancel.is_set()):
            cancelled = cancelled or (not failed and proc.poll() is None)
            end(proc)
    proc.wait()
    if failed:
        raise failed[0]
    return cancelled


def _feed(proc: Started, data: bytes | None) -> None:
    if data is None or proc.stdin is None:
        return
    # A tool that ends before it read everything tells why by its exit code.
    with contextlib.suppress(BrokenPipeError):
        proc.stdin.write(data)
        proc.stdin.close()


@contextlib.contextmanager
def _log_written() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        failed = "The log cannot be written"
        raise oserrors.explain(error, failed) or ResourceError(f"{failed}: {error}.", hint="Repeat it.") from error


def end(proc: Started, grace_s: float = _GRACE_S) -> None:
    """End a process and its group: with SIGTERM, and after `grace_s` seconds with SIGKILL."""
    if proc.poll() is None:
        _signal_group(proc, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            proc.wait(timeout=grace_s)
    _signal_group(proc, signal.SIGKILL)
    if proc.poll() is None:
        proc.wait()


def _signal_group(proc: Started, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if sys.platform == "win32":
            proc.terminate()
        else:
            os.killpg(proc.pid, number)
