"""What a sweep costs beside builds one after the other, and what its driver and Dask's scheduler take for a job.

    python -m benchmarks.sweep_overhead MODEL… --corpus TEXT
    python -m benchmarks.sweep_overhead --nothing 10000

The models' files, of four types and two variants each, are made by `ggufkit build`, a command for each model, and by
`ggufkit sweep` on one worker, each time in an empty directory; all but times and speeds must be equal.
"""

from __future__ import annotations

import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import click

from benchmarks.record import Row, save
from ggufkit.core import failures, machine, process
from ggufkit.core.records import Json
from ggufkit.llama import toolchain
from ggufkit.report.tables import load_results
from ggufkit.request import BuildRequest
from ggufkit.sweep import clusters, stores
from ggufkit.sweep.clusters import Where
from ggufkit.sweep.course import Course
from ggufkit.sweep.drive import Driver
from ggufkit.sweep.facts import Facts, File
from ggufkit.sweep.journal import Journal
from ggufkit.sweep.places import Places
from ggufkit.sweep.records import Cell, Job, Outcome

TYPES, VARIANTS = ("q4_k_m", "q5_k_m", "q8_0", "q2_k"), ("plain", "imatrix")
SPEEDS = ["eval_tps", "pp_tps", "pp_tps_stddev", "tg_tps", "tg_tps_stddev"]
_FILES = 83
"""Of a cell that does nothing: 250 jobs with what measures them."""


@click.command()
@click.argument("models", nargs=-1, type=click.Path(exists=True, path_type=Path))
@click.option("--corpus", type=click.Path(exists=True, path_type=Path))
@click.option("--chunks", default=60, show_default=True)
@click.option("--rounds", default=1, show_default=True)
@click.option("--nothing", default=0, metavar="N", help="Time so many jobs that do nothing instead.")
@click.option(
    "--save/--no-save", "keep", default=True, show_default=True, help="Write benchmarks/results/sweep-….json."
)
def main(
    models: tuple[Path, ...], corpus: Path | None, chunks: int, rounds: int, nothing: int, keep: bool
) -> None:
    """Time builds one after the other and a sweep of the same, alternately; or jobs that do nothing."""
    if nothing:
        click.echo(_time_nothing(nothing))
        return
    if not models or corpus is None:
        raise click.UsageError("Give models, and a text with --corpus.")
    work = _Work([model.resolve() for model in models], corpus.resolve(), chunks)
    times = [(_seconds(work.build), _seconds(work.sweep)) for _ in range(rounds)]
    series, swept = (statistics.median(column) for column in zip(*times, strict=True))
    work.require_equal()
    n_files = len(models) * len(TYPES) * len(VARIANTS)
    click.echo(f"{n_files} files: builds {series:.1f} s   sweep {swept:.1f} s   ratio {swept / series:.3f}")
    if keep:
        rows, notes = [Row("builds", series, swept)], {"rounds": rounds, "chunks": chunks, "files": n_files}
        click.echo(save("sweep", toolchain.find("cpu"), machine.cpu_name(), rows, dict(notes)))


class _Work:
    """The same files, both ways."""

    def __init__(self, models: Sequence[Path], corpus: Path, chunks: int) -> None:
        self.models, self.corpus, self.chunks = models, corpus, chunks
        root = Path(tempfile.mkdtemp(prefix="ggufkit-sweep-"))
        self.built, self.swept, self.file = root / "built", root / "swept", root / "sweep.yaml"
        self.file.write_text(json.dumps(self._spec()), encoding="utf-8")  # JSON is YAML

    def _spec(self) -> dict[str, object]:
        return {
            "out": str(self.swept), "models": [{"model": str(m), "name": m.name} for m in self.models],
            "types": TYPES, "variants": VARIANTS, "calibration": str(self.corpus), "corpora": [str(self.corpus)],
            "options": {"chunks": self.chunks},
        }  # fmt: skip

    def build(self) -> None:
        """One command for each model."""
        shutil.rmtree(self.built, ignore_errors=True)
        asked = ["--types", ",".join(TYPES), "--variants", ",".join(VARIANTS), "--chunks", str(self.chunks)]
        texts = ["--calibration", str(self.corpus), "--corpus", str(self.corpus)]
        for model in self.models:
            _run("build", str(model), *asked, *texts, "--out", str(self.built / model.name))

    def sweep(self) -> None:
        """One command for all."""
        shutil.rmtree(self.swept, ignore_errors=True)
        _run("sweep", str(self.file), "--workers", "1")

    def require_equal(self) -> None:
        """Raise AssertionError where a table of the sweep has another value than that of the build."""
        for model in self.models:
            one, other = (load_results(out / model.name).drop(columns=SPEEDS) for out in (self.built, self.swept))
            if not one.equals(other):
                raise AssertionError(f"{model.name}:\n{one.compare(other)}")


def _run(*arguments: str) -> None:
    command = [sys.executable, "-m", "ggufkit", *arguments, "--quiet"]
    failures.require_success(process.run(command), " ".join(arguments[:2]))


def _seconds(work: object) -> float:
    started = time.monotonic()
    work()  # type: ignore[operator]
    return time.monotonic() - started


def do_nothing(job: Job, _cell: Cell, _given: object, _twin: object, *_needs: Outcome) -> Outcome:
    """A job that is done at once; a model's first one tells of many files."""
    files = tuple(File("plain", f"Q{i}") for i in range(_FILES))
    told: dict[str, Json] = Facts(files, 1).to_json() if job.stage == "fetch" else {}
    return Outcome(job.id, "done", "worker", 0.0, facts=told)


def _time_nothing(n_jobs: int) -> str:
    from benchmarks.sweep_overhead import do_nothing as do  # by its name, and not as a part of the command

    with tempfile.TemporaryDirectory() as home:
        out = Path(home)
        request = BuildRequest("model", types="q4_k_m", bench=True)
        cells = [Cell(f"model-{i}", "", request) for i in range(-(-n_jobs // (3 * _FILES + 5)))]
        with (
            clusters.connected(Where(workers=1), stores.found(out)) as connection,
            Journal(Places(out).journal) as told,
        ):
            started = time.monotonic()
            ended = Driver(lambda: connection.client, out, told, Course(do=do)).drive(cells)
            seconds = time.monotonic() - started
    return f"{len(ended):,} jobs: {seconds:.1f} s, {1000 * seconds / len(ended):.2f} ms a job"


if __name__ == "__main__":
    main()
