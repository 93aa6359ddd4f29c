"""What a second GPU is worth to a sweep: two models refined and measured at once, and with one GPU, one after the other.

    python -m benchmarks.sweep_gpus --corpus wiki.test.raw --calibration calibration.txt

The models have random weights, the shape of Qwen2.5-0.5B and its vocabulary.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from benchmarks import shape
from benchmarks.record import commit, write
from ggufkit.core import machine
from ggufkit.core.progress import SilentReporter
from ggufkit.llama import cuda, source
from ggufkit.sweep import journal
from ggufkit.sweep.places import Places

_FILE = """# Two models, each with all that a GPU is good for.
out: {out}
models: [{models}]
types: [q4_k_m]
variants: [imatrix, gptq]
calibration: {calibration}
corpora: {corpus}
options: {{ctx: 512, chunks: {chunks}, bench: false, calibration-samples: 64}}
"""


@dataclass(frozen=True)
class Run:
    """A sweep: its wall time, and seconds of jobs by stage and by worker."""

    workers: int
    seconds: float
    by_stage: Mapping[str, float]
    by_worker: Mapping[str, float]


@click.command()
@click.option("--home", type=click.Path(path_type=Path), default=Path("sweep-gpus"), show_default=True)
@click.option("--corpus", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--calibration", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--chunks", default=60, show_default=True)
@click.option("--models", default=2, show_default=True)
@click.option("--save/--no-save", "keep", default=True, show_default=True)
def main(home: Path, corpus: Path, calibration: Path, chunks: int, models: int, keep: bool) -> None:
    """Sweep with one GPU, then with all of them."""
    gpus = cuda.gpus()
    if len(gpus) < 2:
        raise click.ClickException(f"This machine has {len(gpus)} GPUs; two are needed.")
    vocabulary = source.pinned_source(SilentReporter()).path / "models" / "ggml-vocab-qwen2.gguf"
    names = [f"qwen-{number}" for number in range(models)]
    for name in names:
        if not (home / name).exists():
            shape.write_checkpoint(home / name, vocabulary)
    runs = []
    for workers in (1, len(gpus)):
        out = home / f"out-{workers}"
        shutil.rmtree(out, ignore_errors=True)
        file = home / f"sweep-{workers}.yaml"
        file.write_text(
            _FILE.format(
                out=out.absolute(), models=", ".join(str((home / name).absolute()) for name in names), chunks=chunks,
                corpus=corpus.absolute(), calibration=calibration.absolute(),
            )
        )  # fmt: skip
        runs.append(_sweep(file, out, workers))
        click.echo(_told(runs[-1]))
    one, several = runs
    click.echo(f"{len(gpus)} GPUs: {several.seconds / one.seconds:.2f} of the wall time of one")
    if keep:
        record = {
            "what": "sweep-gpus", "machine": machine.describe(), "commit": commit(),
            "device": f"{len(gpus)} x {gpus[0].name}",
            "ratio": round(several.seconds / one.seconds, 3), "rows": [asdict(run) for run in runs],
        }  # fmt: skip
        click.echo(write("sweep-gpus", record))


def _sweep(file: Path, out: Path, workers: int) -> Run:
    started = time.monotonic()
    argv = [sys.executable, "-m", "ggufkit", "sweep", str(file), "--workers", str(workers)]
    done = subprocess.run(argv, check=False, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise click.ClickException(f"The sweep ended with {done.returncode}.")
    by_stage, by_worker = defaultdict[str, float](float), defaultdict[str, float](float)
    for event in journal.read(Places(out).journal):
        if event.kind == "ended" and event.outcome is not None:
            by_stage[event.job.split("|")[1]] += event.outcome.seconds
            by_worker[event.outcome.worker] += event.outcome.seconds
    return Run(workers, time.monotonic() - started, by_stage, by_worker)


def _told(run: Run) -> str:
    parts = [", ".join(f"{name} {s:.1f} s" for name, s in sums.items()) for sums in (run.by_stage, run.by_worker)]
    return f"{run.workers} GPUs: {run.seconds:.1f} s\n  stages: {parts[0]}\n  workers: {parts[1]}"


if __name__ == "__main__":
    main()
