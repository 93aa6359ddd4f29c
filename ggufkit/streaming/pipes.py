"""One writer's stream to several readers, through named pipes and without a copy on disk or in memory.

On Linux the pages travel by `tee` and `splice`: reader after reader gets a reference to each, none is copied.
A slow reader holds all others and the writer back; what is under way never exceeds a few pipe buffers.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

_BUFFER = 1 << 20
_F_SETPIPE_SZ = 1031
_LOOK_S = 0.02


def supported(directory: Path) -> bool:
    """Whether named pipes can be made in `directory`: not on Windows, nor on some network and FAT disks."""
    if not hasattr(os, "mkfifo"):
        return False
    probe = directory / "probe.pipe"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        probe.unlink(missing_ok=True)
        os.mkfifo(probe)
        probe.unlink()
    except OSError:
        return False
    return True


@contextlib.contextmanager
def named_pipes(directory: Path, count: int) -> Iterator[tuple[Path, ...]]:
    """Make `count` named pipes that are gone when the context ends."""
    directory.mkdir(parents=True, exist_ok=True)
    pipes = tuple(directory / f"logits-{i}.pipe" for i in range(count))
    try:
        for pipe in pipes:
            pipe.unlink(missing_ok=True)
            os.mkfifo(pipe, 0o600)
        yield pipes
    finally:
        for pipe in pipes:
            pipe.unlink(missing_ok=True)


def pump(source: Path, sinks: Sequence[Path], cancel: threading.Event) -> None:
    """Carry all that is written to the pipe `source` into each pipe of `sinks`, until the writer closes it.

    Returns early, with all pipes closed, when `cancel` is set before both sides are there.

    Raises:
        BrokenPipeError: a reader went away before the writer was done.
    """
    with contextlib.ExitStack() as stack:
        src = _open(source, os.O_RDONLY, cancel, stack)
        outs = [_open(sink, os.O_WRONLY, cancel, stack) for sink in sinks]
        if src is None or None in outs or not _wait_for_writer(src, cancel):
            return
        _carry(src, [out for out in outs if out is not None], stack)


def _wait_for_writer(src: int, cancel: threading.Event) -> bool:
    """Wait for the first bytes: before them an end of file only means that nobody has opened the pipe yet."""
    poll = select.poll()
    poll.register(src, select.POLLIN | select.POLLHUP)
    while not poll.poll(_LOOK_S * 1000):
        if cancel.is_set():
            return False
    return True


def _open(path: Path, mode: int, cancel: threading.Event, stack: contextlib.ExitStack) -> int | None:
    """Open one end of a named pipe without blocking for ever on the other; None when cancelled."""
    while not cancel.is_set():
        try:
            fd = os.open(path, mode | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:  # ENXIO: nobody reads it yet
            time.sleep(_LOOK_S)
            continue
        stack.callback(os.close, fd)
        os.set_blocking(fd, True)
        _widen(fd)
        return fd
    return None


def _widen(fd: int) -> None:
    """Let a pipe hold 1 MiB instead of 64 KiB: fewer wake-ups for the same stream."""
    if sys.platform == "linux":
        import fcntl

        with contextlib.suppress(OSError):
            fcntl.fcntl(fd, _F_SETPIPE_SZ, _BUFFER)


def _carry(src: int, outs: Sequence[int], stack: contextlib.ExitStack) -> None:
    if sys.platform != "linux" or not hasattr(os, "splice"):
        _copy(src, outs)
        return
    hops = _hops(src, outs, stack)
    failed: list[OSError] = []
    threads = [threading.Thread(target=_hop, args=(*hop, failed), daemon=True) for hop in hops]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]


_Hop = tuple[int, int | None, int, bool]
"""A source, a reader that gets a reference to all of it, where it goes on to, and whether that is private."""


def _hops(src: int, outs: Sequence[int], stack: contextlib.ExitStack) -> list[_Hop]:
    """A chain: each reader but the last sees the stream pass by."""
    if len(outs) == 1:
        return [(src, None, outs[0], False)]
    hops: list[_Hop] = []
    for out in outs[:-2]:
        read_end, write_end = os.pipe()
        stack.callback(os.close, read_end)
        _widen(read_end)
        hops.append((src, out, write_end, True))
        src = read_end
    return [*hops, (src, outs[-2], outs[-1], False)]


def _hop(src: int, beside: int | None, onward: int, private: bool, failed: list[OSError]) -> None:
    """Move the stream one hop; a private pipe is closed at the end so that the next hop ends, too."""
    try:
        while left := (_tee(src, beside) if beside is not None else os.splice(src, onward, _BUFFER)):
            while beside is not None and left:
                left -= os.splice(src, onward, left)
    except OSError as error:
        failed.append(error)
    finally:
        if private:
            os.close(onward)


def _tee(src: int, out: int) -> int:
    """Bytes of `src` duplicated into `out`; they stay in `src`. 0 at the end of the stream."""
    while True:
        count = int(_libc().tee(src, out, ctypes.c_size_t(_BUFFER), 0))
        if count >= 0:
            return count
        number = ctypes.get_errno()
        if number != 4:  # EINTR
            raise OSError(number, os.strerror(number))


def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.tee.restype = ctypes.c_ssize_t
    return libc


def _copy(src: int, outs: Sequence[int]) -> None:
    """The same by copying, where the system has no `tee`."""
    while block := os.read(src, _BUFFER):
        for out in outs:
            view = memoryview(block)
            while view:
                view = view[os.write(out, view) :]
