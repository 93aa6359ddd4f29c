"""One writer's stream to several readers, through named pipes and without a copy on disk.

The tools compute and read in turns, and not in step with each other. So a bounded part of the stream waits in memory:
the writer goes on while a reader computes, and a fast reader does not wait for a slow one. Only one that is behind by
the whole bound holds the others and the writer back.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from ggufkit.core.concurrency import worker_pool

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


def pump(source: Path, sinks: Sequence[Path], cancel: threading.Event, ahead: int = 0) -> None:
    """Carry all that is written to the pipe `source` into each pipe of `sinks`, until the writer closes it.

    Args:
        ahead: bytes that the writer may be ahead of the slowest reader.

    Returns early, with all pipes closed, when `cancel` is set before both sides are there.

    Raises:
        BrokenPipeError: a reader went away before the writer was done.
    """
    with contextlib.ExitStack() as stack:
        src = _open(source, os.O_RDONLY, cancel, stack)
        outs = [_open(sink, os.O_WRONLY, cancel, stack) for sink in sinks]
        if src is None or None in outs or not _wait_for_writer(src, cancel):
            return
        _carry(src, [out for out in outs if out is not None], ahead)


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


def _carry(src: int, outs: Sequence[int], ahead: int) -> None:
    ring = _Ring(len(outs), max(ahead, _BUFFER))
    with worker_pool(len(outs)) as pool:
        for reader, out in enumerate(outs):
            pool.submit(_drain, ring, reader, out)
        try:
            _fill(ring, src)
        except BaseException as error:  # also when memory is short: nobody may wait for what never comes
            ring.fail(error)
    if ring.failed is not None:
        raise ring.failed


def _fill(ring: _Ring, src: int) -> None:
    """Read what is written to a pipe, up to its end."""
    n_bytes = -1
    while n_bytes and (block := ring.free()) is not None:
        n_bytes = os.readv(src, [block])
        ring.filled(n_bytes)


class _Ring:
    """Blocks of memory on their way from the writer to each of several readers, used again when all have read them.

    Args:
        size: bytes of all blocks.
    """

    def __init__(self, n_readers: int, size: int) -> None:
        self._blocks: list[bytearray] = []
        self._lengths = [0] * max(1, size // _BUFFER)
        self._written, self._read = 0, [0] * n_readers
        self._changed = threading.Condition()
        self.failed: BaseException | None = None

    def free(self) -> memoryview | None:
        """A block to fill, once the slowest reader has left one; None if a reader is gone."""
        with self._changed:
            room = len(self._lengths)
            self._changed.wait_for(lambda: self.failed is not None or self._written - min(self._read) < room)
            if len(self._blocks) <= self._written % room:
                self._blocks.append(bytearray(_BUFFER))
            return None if self.failed is not None else memoryview(self._blocks[self._written % room])

    def filled(self, n_bytes: int) -> None:
        """Hand the block to all readers; 0 bytes are the end."""
        with self._changed:
            self._lengths[self._written % len(self._lengths)] = n_bytes
            self._written += 1
            self._changed.notify_all()

    def take(self, reader: int) -> memoryview:
        """The next block of a reader; empty at the end, and when another reader is gone."""
        with self._changed:
            self._changed.wait_for(lambda: self.failed is not None or self._read[reader] < self._written)
            if self.failed is not None:
                return memoryview(b"")
            number = self._read[reader] % len(self._lengths)
            return memoryview(self._blocks[number])[: self._lengths[number]]

    def done(self, reader: int) -> None:
        """A reader has its block."""
        with self._changed:
            self._read[reader] += 1
            self._changed.notify_all()

    def fail(self, error: BaseException) -> None:
        """Note that a reader or the writer is gone: nobody waits any more."""
        with self._changed:
            self.failed = self.failed or error
            self._changed.notify_all()


def _drain(ring: _Ring, reader: int, out: int) -> None:
    """Write one reader's blocks to its pipe."""
    try:
        while block := ring.take(reader):
            while block:
                block = block[os.write(out, block) :]
            ring.done(reader)
    except BaseException as error:
        ring.fail(error)
