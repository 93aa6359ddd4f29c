"""What it costs to see that llama.cpp loads a GGUF and computes with it.

    python -m benchmarks.load_check GGUF…

Each file is in the page cache when it is timed. A file of zeros of some shape costs as much as a model.
"""

from __future__ import annotations

import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import click

from benchmarks.record import commit, write
from ggufkit.core import machine
from ggufkit.core.errors import GgufError
from ggufkit.llama import toolchain
from ggufkit.steps import load_check
from ggufkit.steps.session import Session
from ggufkit.steps.step import Workspace, settle

_BLOCK = 1 << 26


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--rounds", default=5, show_default=True)
@click.option("--backend", default="auto", show_default=True, help="Whose tools; they compute on the CPU.")
@click.option(
    "--save/--no-save", "keep", default=True, show_default=True, help="Write benchmarks/results/load-check-….json."
)
def main(files: tuple[Path, ...], rounds: int, backend: str, keep: bool) -> None:
    """Print the median seconds of each file's check: alone, and what it adds to the step that made the file."""
    tools, rows = toolchain.find(backend), []
    with tempfile.TemporaryDirectory(prefix="ggufkit-load-") as directory:
        session = Session(tools, Workspace(Path(directory)))
        for file in files:
            _read(file)
            times = sorted(_seconds(partial(load_check.require_computes, file, session)) for _ in range(rounds))
            settled = _median(file, rounds, partial(settle, file, threading.Event()))
            both = _median(file, rounds, partial(load_check.settle_and_require_computes, file, session))
            median, size, added = statistics.median(times), file.stat().st_size, both - settled
            click.echo(
                f"{file.name:<40} {size / 1e9:7.2f} GB   {median:6.3f} s   ({times[0]:.3f} to {times[-1]:.3f})   "
                f"{added:+.3f} s to a step, which hashes the file meanwhile"
            )
            rows.append({
                "file": file.name, "size_bytes": size, "median_s": round(median, 4), "seconds": times,
                "added_s": round(added, 4),
            })  # fmt: skip
    if keep:
        record = {
            "what": "load-check", "machine": machine.describe(), "backend": tools.backend, "commit": commit(),
            "llama_cpp_commit": tools.commit, "rows": rows,
        }  # fmt: skip
        click.echo(write("load-check", record))


def _read(file: Path) -> None:
    with file.open("rb") as opened:
        while opened.read(_BLOCK):
            pass


def _median(file: Path, rounds: int, work: Callable[[], object]) -> float:
    """Seconds of work that hashes a file whose hash is not known."""
    times = []
    for _ in range(rounds):
        file.touch()
        times.append(_seconds(work))
    return statistics.median(times)


def _seconds(work: Callable[[], object]) -> float:
    started = time.monotonic()
    try:
        work()
    except GgufError as error:
        if "finite" not in error.message:  # random bytes are no numbers, but cost as much
            raise
    return round(time.monotonic() - started, 4)


if __name__ == "__main__":
    main()
