"""What ggufkit costs beside the raw commands: the same work, alternately, in one run.

    python -m benchmarks.overhead MODEL… --corpus TEXT

Per model and round: convert, quantize each type, the base pass and the KL divergence passes, llama-bench for
each file; then the same by `ggufkit build`, then the same build again with nothing to do. The toolchain is warm.
"""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import click

from benchmarks.record import Row, save
from ggufkit.core import failures, machine, process
from ggufkit.core.records import Toolchain
from ggufkit.llama import argv, toolchain
from ggufkit.llama.argv import Compute, Conversion, Excerpt, Quantization, Timing

TYPES = ("Q4_K_M", "Q5_K_M", "Q8_0")


@click.command()
@click.argument("models", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--corpus", required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--chunks", default=60, show_default=True)
@click.option("--rounds", default=3, show_default=True)
@click.option("--bench/--no-bench", default=True, show_default=True)
@click.option(
    "--save/--no-save", "keep", default=True, show_default=True, help="Write benchmarks/results/overhead-….json."
)
def main(models: tuple[Path, ...], corpus: Path, chunks: int, rounds: int, bench: bool, keep: bool) -> None:
    """Time the raw tools and ggufkit alternately."""
    tools, rows, again = toolchain.find("cpu"), [], []
    for model in models:
        work = _Work(tools, model.resolve(), corpus.resolve(), chunks, bench)
        times = [(_seconds(work.raw), _seconds(work.build), _seconds(work.build_again)) for _ in range(rounds)]
        raw, ours, nothing = (statistics.median(column) for column in zip(*times, strict=True))
        rows.append(Row(model.name, round(raw, 2), round(ours, 2)))
        again.append(round(nothing, 2))
        click.echo(f"{model.name:<12} raw {raw:6.1f} s   ggufkit {ours:6.1f} s   ratio {ours / raw:.3f}   "
                   f"nothing to do {nothing:.2f} s")  # fmt: skip
    quick = _quick_commands(models[0])
    for name, seconds in quick.items():
        click.echo(f"{name:<24} {seconds:.2f} s")
    if keep:
        notes: dict[str, object] = {"rounds": rounds, "chunks": chunks, "nothing_to_do_s": again, **quick}
        click.echo(save("overhead", tools, machine.cpu_name(), rows, notes))


class _Work:
    """One model's work, both ways, each time in an empty directory."""

    def __init__(self, tools: Toolchain, model: Path, corpus: Path, chunks: int, bench: bool) -> None:
        self.tools, self.model, self.corpus, self.chunks, self.bench = tools, model, corpus, chunks, bench
        self.root = Path(tempfile.mkdtemp(prefix="ggufkit-overhead-"))
        self.compute = Compute(threads=machine.physical_cores())

    def raw(self) -> None:
        """The commands that a user would type."""
        shutil.rmtree(self.root, ignore_errors=True)
        self.root.mkdir()
        base, excerpt = self.root / "base.gguf", Excerpt(self.corpus, n_chunks=self.chunks)
        _run(argv.convert(Path(str(self.tools.source)), self.model, base, Conversion("f16", self.model.name)))
        files = [self.root / f"{kind}.gguf" for kind in TYPES]
        for file, kind in zip(files, TYPES, strict=True):
            _run(argv.quantize(self.tools, Quantization(base, kind), file, self.compute.threads))
        logits = self.root / "logits"
        _run([*argv.perplexity(self.tools, base, excerpt, self.compute), "--kl-divergence-base", str(logits)])
        for file in files:
            tool = str(self.tools.binary("llama-perplexity"))
            given = ["-m", str(file), "-c", "512", *self.compute.options(), "-lv", "4"]
            _run([tool, *given, "--kl-divergence-base", str(logits), "--kl-divergence"])
        if self.bench:
            for file in (base, *files):
                _run(argv.bench(self.tools, file, self.compute, Timing()))

    def build(self) -> None:
        """`ggufkit build` of the same."""
        shutil.rmtree(self.root, ignore_errors=True)
        self.build_again()

    def build_again(self) -> None:
        """`ggufkit build` where all is there."""
        types = ",".join(("f16", *TYPES))
        options = [
            "--types",
            types,
            "--corpus",
            str(self.corpus),
            "--chunks",
            str(self.chunks),
            "--backend",
            "cpu",
        ]
        more = [] if self.bench else ["--no-bench"]
        _run([sys.executable, "-m", "ggufkit", "build", str(self.model), *options, *more, "--out", str(self.root)])


def _run(command: Sequence[str]) -> None:
    failures.require_success(process.run(command), "benchmarking")


def _seconds(work: Callable[[], None]) -> float:
    started = time.monotonic()
    work()
    return time.monotonic() - started


def _quick_commands(model: Path) -> dict[str, float]:
    """Median seconds of commands that should feel instant."""
    weights = max(model.glob("*.safetensors"), key=lambda f: f.stat().st_size)
    with tempfile.TemporaryDirectory() as directory:
        gguf = Path(directory) / f"{model.name}-F16.gguf"
        tools = toolchain.find("cpu")
        _run(argv.convert(Path(str(tools.source)), weights.parent, gguf, Conversion("f16", model.name)))
        return {
            "help_s": _median([sys.executable, "-m", "ggufkit", "--help"]),
            "inspect_s": _median([sys.executable, "-m", "ggufkit", "inspect", str(gguf)]),
        }


def _median(command: Sequence[str]) -> float:
    return round(statistics.median(_seconds(lambda: _run(command)) for _ in range(9)), 3)


if __name__ == "__main__":
    main()
