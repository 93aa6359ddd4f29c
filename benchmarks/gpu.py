"""Raw commands one after another against `ggufkit build`, on a GPU: the same files, the same machine, one run.

    python -m benchmarks.gpu MODEL --corpus wiki.test.raw

Raw: convert, quantize each type, then llama-perplexity on each file. `ggufkit build` does the same, and measures KL
divergence in addition. MODEL may be `qwen2.5-0.5b-shape`: random weights of that shape with llama.cpp's own copy of
the Qwen2 vocabulary. The toolchain is built before anything is timed. `--raw-tools` names llama.cpp as its own README
builds it, which is what a script of raw commands runs; without it they run ggufkit's build, and gain by it, too.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import click

from benchmarks.record import Row, save
from benchmarks.shape import write_checkpoint
from ggufkit import load_results
from ggufkit.core import failures, machine, process
from ggufkit.core.progress import SilentReporter
from ggufkit.core.records import Toolchain
from ggufkit.llama import argv, cuda, logs, toolchain
from ggufkit.llama.argv import Compute, Conversion, Excerpt, Quantization
from ggufkit.report import timeline

SHAPE = "qwen2.5-0.5b-shape"
TYPES = ("Q8_0", "Q5_K_M", "Q4_K_M")


@click.command()
@click.argument("model")
@click.option("--corpus", required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--chunks", type=int, help="Fewer chunks than the whole text has.")
@click.option("--vocabulary", type=click.Path(path_type=Path), help="ggml-vocab-qwen2.gguf, for the random model.")
@click.option("--backend", default="cuda", show_default=True)
@click.option("--raw-tools", type=click.Path(exists=True, path_type=Path), help="Binaries for the raw commands.")
@click.option("--keep", type=click.Path(path_type=Path), help="Work here, and leave the files.")
@click.option("--save/--no-save", "record", default=True, show_default=True)
def main(
    model: str,
    corpus: Path,
    chunks: int | None,
    vocabulary: Path | None,
    backend: str,
    raw_tools: Path | None,
    keep: Path | None,
    record: bool,
) -> None:
    """Time the raw commands and ggufkit, and compare what they print."""
    tools = toolchain.find(backend)
    root = keep or Path(tempfile.mkdtemp(prefix="ggufkit-gpu-"))
    checkpoint = _checkpoint(model, vocabulary, tools, root)
    excerpt = Excerpt(corpus.resolve(), n_chunks=chunks)
    plain = tools if raw_tools is None else replace(tools, dir=raw_tools.resolve())
    raw, estimates = _raw(plain, checkpoint, excerpt, root / "raw")
    ours = _ggufkit(checkpoint, excerpt, backend, root / "ours")
    _compare(root / "ours", estimates)
    total = sum(raw.values())
    for name, seconds in raw.items():
        click.echo(f"raw {name:<18} {seconds:7.1f} s")
    spans = timeline.spans(root / "ours", checkpoint.name)
    for span in spans:
        click.echo(f"ggufkit {span.label:<22} {span.start:6.1f} s + {span.seconds:6.1f} s on {span.resource}")
    click.echo(f"raw total {total:17.1f} s\nggufkit build {ours:13.1f} s\nratio {ours / total:22.3f}")
    if record:
        device = ", ".join(gpu.name for gpu in cuda.gpus()) or machine.cpu_name()
        rows = [Row(checkpoint.name, round(total, 2), round(ours, 2))]
        steps: dict[str, object] = {
            "raw_tools": "ggufkit's build" if raw_tools is None else "llama.cpp's own build",
            "raw_steps_s": {k: round(v, 2) for k, v in raw.items()},
            "ggufkit_steps_s": {s.label: [round(s.start, 2), round(s.start + s.seconds, 2)] for s in spans},
            "chunks": chunks,
        }
        click.echo(save("gpu", tools, device, rows, steps))


def _checkpoint(model: str, vocabulary: Path | None, tools: Toolchain, root: Path) -> Path:
    if model != SHAPE:
        return Path(model).resolve()
    source = toolchain.converter_source(tools, SilentReporter())
    return write_checkpoint(root / SHAPE, vocabulary or source / "models" / "ggml-vocab-qwen2.gguf")


def _raw(
    tools: Toolchain, checkpoint: Path, excerpt: Excerpt, root: Path
) -> tuple[dict[str, float], dict[str, logs.Estimate]]:
    """Each raw command's seconds, and each file's estimate."""
    root.mkdir(parents=True)
    source, base = toolchain.converter_source(tools, SilentReporter()), root / "F16.gguf"
    seconds = {"convert": _timed(argv.convert(source, checkpoint, base, Conversion("f16", checkpoint.name)))[0]}
    for kind in TYPES:
        command = argv.quantize(tools, Quantization(base, kind), root / f"{kind}.gguf", machine.physical_cores())
        seconds[f"quantize {kind}"] = _timed(command)[0]
    estimates = {}
    for kind in ("F16", *TYPES):
        compute = Compute(tools.backend, threads=machine.physical_cores())
        command = argv.perplexity(tools, root / f"{kind}.gguf", excerpt, compute)
        seconds[f"perplexity {kind}"], output = _timed(command)
        estimates[kind] = logs.parse_perplexity(output)
    return seconds, estimates


def _timed(command: Sequence[str]) -> tuple[float, process.ToolOutput]:
    output = process.run(command)
    failures.require_success(output, "benchmarking")
    return output.duration_s, output


def _ggufkit(checkpoint: Path, excerpt: Excerpt, backend: str, out: Path) -> float:
    types = ",".join(("f16", *TYPES))
    options = ["--types", types, "--corpus", str(excerpt.corpus), "--no-bench", "--backend", backend]
    options += [] if excerpt.n_chunks is None else ["--chunks", str(excerpt.n_chunks)]
    started = time.monotonic()
    output = process.run([sys.executable, "-m", "ggufkit", "build", str(checkpoint), *options, "--out", str(out)])
    failures.require_success(output, "benchmarking ggufkit")
    click.echo(output.stderr)
    return time.monotonic() - started


def _compare(out: Path, estimates: dict[str, logs.Estimate]) -> None:
    """Show both perplexities of each file, and the divergence that comes in addition."""
    table = load_results(out).set_index("type")
    for kind, raw in estimates.items():
        row = table.loc[kind]
        click.echo(
            f"{kind:<7} raw PPL {raw.ppl:.4f} ± {raw.stderr:.5f}   ggufkit {row['ppl']:.4f} ± {row['ppl_stderr']:.5f}"
            f"   KLD {row['kld_mean']}   {row['backend']} {row['device']}"
        )


if __name__ == "__main__":
    main()
