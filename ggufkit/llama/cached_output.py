"""Questions to a tool whose answer never changes while its files do not: `--version`, `--help`."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Sequence
from pathlib import Path

from ggufkit.core import process
from ggufkit.core.manifest import write_atomically
from ggufkit.core.paths import cache_dir


def cached_output(argv: Sequence[str]) -> str:
    """What the tool prints, remembered until a file beside it changes."""
    memory = cache_dir() / "answers" / f"{_key(argv)}.txt"
    if memory.is_file():
        return memory.read_text(encoding="utf-8")
    answer = process.run(argv).text
    with contextlib.suppress(OSError):  # a cache that cannot be written costs time only
        memory.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(memory, answer)
    return answer


def _key(argv: Sequence[str]) -> str:
    """The tools are thin programs around shared libraries, so all files of their directory count."""
    tool = Path(argv[0])
    stats = {file.name: file.stat() for file in sorted(tool.parent.glob("*")) if file.is_file()}
    seen = [(name, s.st_size, s.st_mtime_ns, s.st_ino, s.st_ctime_ns) for name, s in stats.items()]
    return hashlib.sha256(repr((list(argv), seen)).encode()).hexdigest()[:32]
