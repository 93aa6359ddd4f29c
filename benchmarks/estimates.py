"""What `--dry-run` says a build will take, against what it takes: three unlike builds, on a machine with nothing else to do.

    python -m benchmarks.estimates MODEL OTHER --corpus TEXT --calibration TEXT

In the first round a probe of two seconds tells the time, in those after it what the rounds before took: what the machine
remembers of other days is put aside meanwhile. The factor is that of the longer time to the shorter one.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from benchmarks.record import commit, write
from ggufkit.core import durations, failures, machine, process
from ggufkit.core.paths import cache_dir
from ggufkit.llama import toolchain


@dataclass(frozen=True)
class Compared:
    """One build: seconds as they were foreseen, the factor of error that was stated, and seconds as it took."""

    name: str
    round: int
    foreseen_s: float
    stated: float
    took_s: float

    @property
    def factor(self) -> float:
        """By which the estimate was off."""
        return max(self.foreseen_s / self.took_s, self.took_s / self.foreseen_s)


@click.command()
@click.argument("model", type=click.Path(exists=True, path_type=Path))
@click.argument("other", type=click.Path(exists=True, path_type=Path))
@click.option("--corpus", required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--calibration", required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--rounds", default=2, show_default=True)
@click.option(
    "--save/--no-save", "keep", default=True, show_default=True, help="Write benchmarks/results/estimates-….json."
)
def main(model: Path, other: Path, corpus: Path, calibration: Path, rounds: int, keep: bool) -> None:
    """Build three times as often as there are rounds, and print by which factor each estimate was off."""
    text, drawn = ["--corpus", str(corpus.resolve())], ["--calibration", str(calibration.resolve())]
    drawn += ["--calibration-samples", "32"]
    small, large = str(model.resolve()), str(other.resolve())
    builds = {
        "plain": [small, "--types", "q4_k_m,q5_k_m,q8_0", "--chunks", "40"],
        "matrix, refined": [large, "--types", "iq3_xxs,q4_k_m", "--variants", "imatrix,gptq", "--chunks", "20", *drawn],
        "scaled": [small, "--types", "q4_0,q6_k", "--variants", "plain,awq", "--chunks", "80", "--no-bench", *drawn],
    }  # fmt: skip
    numbered = [(number, name) for number in range(1, rounds + 1) for name in builds]
    done = list[Compared]()
    with _nothing_remembered():
        for number, name in numbered:
            one = _compare(name, number, [*builds[name], *text])
            done.append(one)
            click.echo(f"{one.name:<16} round {one.round}   foreseen {one.foreseen_s:6.1f} s within {one.stated:.2f}   "
                       f"took {one.took_s:6.1f} s   factor {one.factor:.2f}")  # fmt: skip
    worst = max(one.factor for one in done if one.round == rounds)
    click.echo(f"worst of the last round: {worst:.2f}")
    if keep:
        rows = [{**asdict(one), "factor": round(one.factor, 3)} for one in done]
        record = {"what": "estimates", "machine": machine.describe(), "commit": commit(),
                  "llama_cpp_commit": toolchain.find("cpu").commit, "worst": round(worst, 3), "rows": rows}  # fmt: skip
        click.echo(write("estimates", record))


@contextlib.contextmanager
def _nothing_remembered() -> Iterator[None]:
    """Put aside what the machine remembers of how long work took."""
    file = cache_dir() / durations.FILE
    aside = file.with_suffix(".aside")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that it is put back
    if file.exists() and not aside.exists():  # it is there where an earlier run was killed
        file.replace(aside)
    file.unlink(missing_ok=True)
    try:
        yield
    finally:
        if aside.exists():
            aside.replace(file)


def _compare(name: str, number: int, given: Sequence[str]) -> Compared:
    out = Path(tempfile.mkdtemp(prefix="ggufkit-estimates-"))
    command = [sys.executable, "-m", "ggufkit", "build", *given, "--backend", "cpu", "--out", str(out)]
    plan = json.loads(_run([*command, "--dry-run", "--json"]).stdout)
    started = time.monotonic()
    _run(command)
    took = time.monotonic() - started
    shutil.rmtree(out)
    return Compared(name, number, plan["seconds"], plan["seconds_factor"], round(took, 2))


def _run(command: Sequence[str]) -> process.ToolOutput:
    output = process.run(command)
    failures.require_success(output, "benchmarking")
    return output


if __name__ == "__main__":
    main()
