"""A GGUF's parts as the file that they were before they were split, byte for byte."""

from __future__ import annotations

from pathlib import Path

from ggufkit.core import machine
from ggufkit.core.errors import GgufError, ResourceError
from ggufkit.core.hashing import sha256_file
from ggufkit.core.progress import Progress, Reporter
from ggufkit.core.units import GIB, size
from ggufkit.llama import whole
from ggufkit.llama.gguf import GgufHeader


def join(header: GgufHeader, sha256: str, target: Path, reporter: Reporter) -> None:
    """Write the whole file, and hash what was written.

    Args:
        sha256: that of the whole file, as its parts have it.

    Raises:
        ResourceError: there is no room.
        GgufError: it is not that file.
    """
    require_room(target, whole.n_bytes(header), f"{header.path.name} is joined")
    with reporter.step(f"Joining the {len(header.parts)} parts of {header.path.name}") as progress:
        write(header, target, progress)
    if sha256_file(target, reporter) != sha256:
        message = f"The parts of {header.path} joined are not the file that they were."
        raise GgufError(message, hint="Get the parts again; is something wrong with the disk?")


def write(header: GgufHeader, target: Path, progress: Progress) -> None:
    """Write the whole file."""
    done, total = 0, header.size_bytes / GIB
    with target.open("wb") as file:
        for block in whole.chunks(header):
            file.write(block)
            done += len(block)
            progress.update(done / GIB, total, "GiB")


def require_room(target: Path, n_bytes: int, doing: str) -> None:
    """Raise ResourceError where so many bytes do not fit beside a file."""
    if (free := machine.free_disk(target)) < n_bytes:
        message = f"{doing}, which takes {size(n_bytes)} beside it; {size(free)} are free at {target.parent}."
        raise ResourceError(message, hint="Free some space, or choose another --out.")
