"""What it costs to plan a large sweep: the file read and checked, its cells, and all jobs of all of them at once.

    python -m benchmarks.sweep_plan --models 2000 --types 60

What only a fetched model tells is given: that its files are what was asked for.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
import psutil

from benchmarks.record import commit, write
from ggufkit.core import machine, variants
from ggufkit.core.units import size
from ggufkit.sweep import graph, matrix, sweep_file
from ggufkit.sweep.facts import Facts, File
from ggufkit.sweep.records import Cell, Job

_FILE = """# A sweep of a publisher: sixty types of each of many models.
models:
{models}
types: [{types}]
variants: [{variants}]
options: {{chunks: 60}}
exclude:
  - {{models: "*-00001*", types: ["1.*bpw"]}}
include:
  - {{models: "*-00002*", types: [q8_0], variants: [plain]}}
"""


@click.command()
@click.option("--models", "n_models", default=2000, show_default=True)
@click.option("--types", "n_types", default=60, show_default=True)
@click.option("--variants", "chosen", default="imatrix", show_default=True, help="Between commas.")
@click.option("--save/--no-save", "keep", default=True, show_default=True)
def main(n_models: int, n_types: int, chosen: str, keep: bool) -> None:
    """Plan, and say how long it took and how much memory was needed at most."""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "sweep.yaml"
        types = [f"{1 + number / 20:.2f}bpw" for number in range(n_types)]
        models = "\n".join(f"  - {{model: owner/model-{n:05d}, options: {{threads: 4}}}}" for n in range(n_models))
        file.write_text(_FILE.format(models=models, types=", ".join(types), variants=chosen))
        before, started = _peak(), time.perf_counter()
        cells = matrix.cells(sweep_file.read(file))
        read_s = time.perf_counter() - started
        planned = [jobs_of(cell) for cell in cells]
        seconds, n_jobs = time.perf_counter() - started, sum(map(len, planned))
    told = {
        "what": f"sweep-plan-{n_models}x{n_types}",
        "machine": machine.describe(),
        "commit": commit(),
        "models": n_models,
        "types": n_types,
        "cells": len(cells),
        "jobs": n_jobs,
        "file_and_cells_s": round(read_s, 2),
        "seconds": round(seconds, 2),
        "peak_bytes": _peak(),
        "peak_bytes_before": before,
    }
    print(f"{len(cells):,} builds, {n_jobs:,} jobs: {seconds:.1f} s, of which {read_s:.1f} s for the file and its cells; "
          f"{size(_peak())} of memory at the most.")  # fmt: skip
    if keep:
        print(write(str(told["what"]), told))


def jobs_of(cell: Cell) -> Sequence[Job]:
    """All jobs of a cell of which what is asked for is made."""
    return [graph.fetch(cell), *graph.jobs(cell, Facts(tuple(_files(cell)), n_params=500_000_000))]


def _files(cell: Cell) -> Iterator[File]:
    asked = ((v, t) for v in cell.request.variants for t in cell.request.types)
    for name, kind in asked if cell.only is None else sorted(cell.only):
        variant = variants.find(name)
        yield File(name, kind, "awq" if variant.awq else "", variant.imatrix, variant.after is not None)


def _peak() -> int:
    """Bytes of memory that this process had at the most."""
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most << 10


if __name__ == "__main__":
    main()
