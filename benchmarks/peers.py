"""ggufkit's variants against auto-round on the same calibration tokens: divergence, seconds, memory, in one table.

    python -m benchmarks.peers MODEL --out DIR --corpus wiki.test.raw --calibration calibration-en.txt

Each file is made by commands as a user types them, each in a process of its own whose wall and processor seconds and
memory are noted; a row counts all of them, from the checkpoint to the file, as if it were the only one, but for AWQ, whose
search serves all types. auto-round, pinned in an environment of its own, gets the samples that GPTQ and AWQ draw as token
ids; `auto-round-N` tunes N iterations with its extended algorithm. Then llama-perplexity compares all files with the same
base logits. What is in DIR is not made again: the same command goes on where it was interrupted, step by step, and
peers.csv there has a row for each file that is made. On a GPU both work there; llama.cpp on `--backend`.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks import peer_table
from benchmarks.auto_round_home import AUTO_ROUND, DRIVER, environment
from benchmarks.metered import Usage
from benchmarks.peer_steps import HERE, PEER, VARIANTS, Inputs, Step, iterations, last_step, order, steps_of
from benchmarks.peer_table import Row
from benchmarks.record import commit, write
from ggufkit.cli.parameter_types import NAMES
from ggufkit.cli.terminal import reporting
from ggufkit.core import failures, machine, process
from ggufkit.core.process import Surroundings
from ggufkit.core.records import Toolchain
from ggufkit.llama import cuda, toolchain
from ggufkit.measure import divergence, measurements
from ggufkit.measure.evaluation import EvalOptions, Evaluation
from ggufkit.measure.logits.strategy import Transport
from ggufkit.models import sources
from ggufkit.request import EvaluationOptions, RunOptions
from ggufkit.texts import calibration as texts
from ggufkit.texts import corpus

_ASKED = ",".join((*VARIANTS, "gptq+output", "awq+gptq+output", f"{PEER}50", f"{PEER}200"))
_BASE = "convert"
_PATH = click.Path(exists=True, path_type=Path, resolve_path=True)


@dataclass(frozen=True)
class Bench:
    """A directory in which files are made, each step in one of its own; `tools` is llama.cpp for all of them."""

    out: Path
    tools: Toolchain
    steps: Mapping[str, Step]

    def row(self, method: str, kind: str) -> Row:
        """Make a file, and say what it took."""
        names = order(self.steps, last_step(method, kind))
        used = [self._made(name) for name in names]
        file = self.file(method, kind)
        file.parent.mkdir(exist_ok=True)
        if not file.exists():
            os.link(self.product(names[-1]), file)
        seconds, processor = (round(sum(getattr(u, of) for u in used), 2) for of in ("seconds", "processor_s"))
        return Row(kind, method, file.stat().st_size, seconds, processor, max(u.peak_mb for u in used))

    def file(self, method: str, kind: str) -> Path:
        """A method's file, under a name that no other has."""
        return self.out / "files" / f"{method}-{kind}.gguf"

    def product(self, name: str) -> Path:
        """What a step left."""
        (found,) = self._place(name).glob(self.steps[name].product)
        return found

    def _place(self, name: str) -> Path:
        return self.out / "steps" / name.replace(":", "-of-")

    def _made(self, name: str) -> Usage:
        """Run a step unless that is done; one that was interrupted begins anew."""
        place, step = self._place(name), self.steps[name]
        note = place / "usage.json"
        if not note.exists():
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir(parents=True)
            products = {HERE: place, **{read: self.product(read) for read in step.reads}}
            metered = (sys.executable, "-m", "benchmarks.metered", str(note), *step.command(products))
            click.echo(f"{name} …", err=True)
            same = Surroundings({"GGUFKIT_LLAMA_CPP": str(self.tools.dir)})
            output = process.run(metered, log=place.with_name(f"{place.name}.log"), surroundings=same)
            failures.require_success(output, f"making {name}")
            click.echo(f"{name} {note.read_text().strip()}", err=True)
        return Usage(**json.loads(note.read_text(encoding="utf-8")))


@dataclass(frozen=True)
class Asked:
    """What is made and measured, as the options of `main` say."""

    types: tuple[str, ...]
    methods: tuple[str, ...]
    samples: int
    chunks: int
    device: str
    backend: str
    auto_round_python: Path | None
    make: bool
    measure: bool

    @property
    def kinds(self) -> tuple[str, ...]:
        """The types as files are called by them."""
        return tuple(kind.upper() for kind in self.types)


@click.command()
@click.argument("model", type=_PATH)
@click.option("--out", required=True, type=click.Path(path_type=Path, resolve_path=True))
@click.option("--corpus", "evaluated", required=True, type=_PATH)
@click.option("--calibration", required=True, type=_PATH)
@click.option("--types", type=NAMES, default="q4_k_m,q4_0,q3_k_m", show_default=True)
@click.option(
    "--methods", type=NAMES, default=_ASKED, show_default=True, help="Which files to make and to compare."
)
@click.option("--samples", default=128, show_default=True, help="Of the calibration text, 512 tokens each.")
@click.option("--chunks", default=40, show_default=True, help="Of the corpus, 512 tokens each.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--backend", default="cpu", show_default=True)
@click.option(
    "--auto-round-python",
    type=click.Path(exists=True, path_type=Path),
    help="A Python that has auto-round, instead of making one.",
)
@click.option("--make/--no-make", default=True, show_default=True, help="Make the files that are not there yet.")
@click.option(
    "--measure/--no-measure", default=True, show_default=True, help="Compare the files once they are made."
)
@click.option("--save/--no-save", "keep", default=True, show_default=True)
def main(model: Path, out: Path, evaluated: Path, calibration: Path, keep: bool, **given: Any) -> None:
    """Make all files of one model, measure them, and show what they are and took."""
    asked = Asked(**given)
    out.mkdir(parents=True, exist_ok=True)
    inputs = _inputs(model, calibration, asked, out)
    bench = Bench(out, toolchain.find(asked.backend), steps_of(inputs, asked.methods))
    made = list[Row]()
    for kind, method in product(inputs.types, asked.methods):
        if asked.make or bench.file(method, kind).exists():
            made.append(bench.row(method, kind))
            _write(out, made)
    if asked.measure:
        made = _measured(bench, made, evaluated, asked)
        _write(out, made)
    click.echo(f"{peer_table.markdown(made)}\n\n{peer_table.verdict(made)}")
    if keep:
        click.echo(write(f"peers-{model.name}", _record(made, asked, bench.tools)))


def _inputs(model: Path, calibration: Path, asked: Asked, out: Path) -> Inputs:
    """What files are made with, which must be the same as when the directory was begun."""
    given = {
        "model": str(model), "calibration": str(calibration), "samples": asked.samples, "types": asked.kinds,
        "device": asked.device, "backend": asked.backend,
    }  # fmt: skip
    text, begun = json.dumps(given), out / "inputs.json"
    if begun.exists() and begun.read_text(encoding="utf-8") != text:
        raise click.UsageError(
            f"{out} was begun with {begun.read_text()}; take another --out, or the same options."
        )
    begun.write_text(text, encoding="utf-8")
    ours, peer = (sys.executable, "-m", "ggufkit"), tuple[str, ...]()
    if any(iterations(method) is not None for method in asked.methods):
        python, tokens = asked.auto_round_python or environment(), _tokens(model, calibration, asked.samples, out)
        peer = (str(python), str(DRIVER), str(model), str(tokens), asked.device)
    return Inputs(
        str(model), str(calibration), asked.samples, asked.kinds, asked.device, asked.backend, ours, peer
    )


def _tokens(model: Path, text: Path, samples: int, out: Path) -> Path:
    """The samples that `ggufkit refine` and `ggufkit awq` draw, as a file."""
    sampling = texts.Sampling(samples)
    drawn = texts.draw(texts.read_texts(text), texts.load_tokenizer(model), sampling, source=text.name)
    path = out / "tokens.npy"
    np.save(path, drawn.samples)
    return path


def _measured(bench: Bench, rows: Sequence[Row], evaluated: Path, asked: Asked) -> list[Row]:
    """The rows with what llama-perplexity says of their files, all compared with the same base logits."""
    with reporting() as reporter:
        session = RunOptions(backend=asked.backend).session(bench.out, reporter, bench.tools)
        with session.workspace.locked():
            base = sources.open_gguf(bench.product(_BASE), reporter)
            files = [sources.open_gguf(bench.file(row.method, row.type), reporter) for row in rows]
            text = corpus.resolve(str(evaluated), reporter)
            evaluation = Evaluation(text, EvalOptions(n_chunks=asked.chunks), session)
            _, *found = divergence.measure_all(base, files, evaluation, Transport(EvaluationOptions.scratch_limit))
    return [_with_figures(row, one.path) for row, one in zip(rows, found, strict=True)]


def _with_figures(row: Row, result: Path) -> Row:
    figures = {m.metric: m for m in measurements.load(result)}
    kld, same = figures["kld_mean"], figures["same_top_p"]
    return replace(row, kld=kld.value, kld_stderr=kld.stderr, same_top_p=same.value)


def _write(out: Path, rows: Sequence[Row]) -> None:
    for name, text in (("peers.csv", peer_table.to_csv(rows)), ("peers.md", f"{peer_table.markdown(rows)}\n")):
        (out / name).write_text(text, encoding="utf-8")


def _record(rows: Sequence[Row], asked: Asked, tools: Toolchain) -> dict[str, object]:
    return {
        "what": "peers",
        "machine": machine.describe(),
        "device": ", ".join(gpu.name for gpu in cuda.gpus()) or machine.cpu_name(),
        "backend": tools.backend,
        "commit": commit(),
        "llama_cpp_commit": tools.commit,
        "peer": AUTO_ROUND,
        "samples": asked.samples,
        "chunks": asked.chunks,
        "rows": [asdict(row) for row in rows],
        "verdict": peer_table.verdict(rows).splitlines(),
    }


if __name__ == "__main__":
    main()
