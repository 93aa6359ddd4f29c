"""An embedding that is the output matrix, too: under the one name by which llama-imatrix knows an output matrix."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from ggufkit.core import machine
from ggufkit.core.errors import ResourceError
from ggufkit.core.part_names import whole_of
from ggufkit.core.progress import SilentReporter
from ggufkit.core.records import GgufFile
from ggufkit.core.units import size
from ggufkit.llama.gguf import EMBEDDING, OUTPUT, output_of, read_header
from ggufkit.llama.rewrite import write_whole
from ggufkit.steps.session import Session

_OUTPUT = rf"^{re.escape(OUTPUT)}(?=\.)"


@contextmanager
def named(base: GgufFile, session: Session) -> Iterator[GgufFile]:
    """The base, or while the context lasts a copy of it in which the embedding is there as the output matrix again.

    Raises:
        ResourceError: there is no room for it.
    """
    header, directory = read_header(base.path), session.workspace.scratch
    if output_of(header) == OUTPUT:
        yield base
        return
    directory.mkdir(parents=True, exist_ok=True)
    copy, needed = directory / whole_of(base.path).name, base.size_bytes + header.by_name[EMBEDDING].n_bytes
    if (free := machine.free_disk(copy)) < needed:
        message = f"A copy of {base.path.name} with an output matrix takes {size(needed)}; {size(free)} are free."
        raise ResourceError(message, hint="Free some space, or leave out --process-output.")
    try:
        with session.reporter.step(f"A copy of {base.path.name} with an output matrix of its own") as progress:
            write_whole(header.parts or (header,), None, copy, progress, _twice)
        yield replace(base, path=copy)
    finally:
        copy.unlink(missing_ok=True)


def rename(matrix: Path, base: GgufFile) -> None:
    """Call the output matrix in an importance matrix what it is called in the base."""
    own = output_of(read_header(base.path))
    if own != OUTPUT:
        written = matrix.with_name(f"{matrix.name}.named")
        try:
            with SilentReporter().step("") as progress:
                write_whole(
                    [read_header(matrix)], None, written, progress, lambda name: [re.sub(_OUTPUT, own, name)]
                )
            written.replace(matrix)
        finally:
            written.unlink(missing_ok=True)


def _twice(name: str) -> list[str]:
    return [name, OUTPUT] if name == EMBEDDING else [name]
