"""Base logits through memory that the base's process shares with those that read them.

Through pipes every byte is copied four times on its way to a reader (what that costs: `docs/about/measured.md`). The
tools of GPU builds know another way: a file in memory, used as a ring (`llama/cmake/shared_ring.h`), whose bytes stay
where they are.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ggufkit.core import process
from ggufkit.core.errors import ToolError
from ggufkit.core.records import Toolchain
from ggufkit.llama import build
from ggufkit.llama.build import RING

MOST_READERS = 64
_HEAD = struct.Struct("<16sQQQ")  # magic, bytes, readers, closed; then what the tools count themselves
_HEAD_SIZE = 4096
_PAGE = mmap.PAGESIZE
_CLOSED_AT = _HEAD.size - 8


@dataclass(frozen=True)
class Ring:
    """A ring: the path that the tools open, and the file behind it."""

    path: Path
    file: int

    def end(self) -> None:
        """Let readers find the end, should the writer have died before it said so."""
        os.pwrite(self.file, struct.pack("<Q", 1), _CLOSED_AT)


def supported(tools: Toolchain) -> bool:
    """Whether these tools know rings, and the system has files in memory that other processes can open."""
    if not hasattr(os, "memfd_create") or not build.has_fast_logits(tools.dir):
        return False
    try:
        with open_ring(1, 1) as ring:
            return process.run(["sh", "-c", ': <> "$1"', "sh", ring.path]).returncode == 0
    except (OSError, ToolError):
        return False


@contextlib.contextmanager
def open_ring(n_readers: int, size: int) -> Iterator[Ring]:
    """Make a ring of `size` bytes, rounded up to whole pages, for `n_readers`.

    Its memory is given back when the last process has left it.
    """
    size = -(-size // _PAGE) * _PAGE
    file = os.memfd_create("ggufkit-logits", os.MFD_CLOEXEC)
    try:
        os.truncate(file, _HEAD_SIZE + size)
        os.pwrite(file, _HEAD.pack(RING, size, n_readers, 0), 0)
        yield Ring(Path(f"/proc/{os.getpid()}/fd/{file}"), file)
    finally:
        os.close(file)
