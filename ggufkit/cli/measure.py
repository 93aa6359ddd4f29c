"""Commands that measure and look: perplexity, bench, inspect."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from ggufkit import bench, corpus, divergence, measurements, perplexity
from ggufkit.bench import BenchOptions
from ggufkit.cli import options, quality
from ggufkit.cli.terminal import console, reporting
from ggufkit.divergence import Comparison
from ggufkit.errors import UsageError
from ggufkit.hashing import sha256_file
from ggufkit.llama import toolchain
from ggufkit.llama.gguf import GgufHeader, read_gguf, read_header, summarize
from ggufkit.perplexity import EvalOptions
from ggufkit.preflight import size
from ggufkit.records import GgufFile, Measurement
from ggufkit.session import Session
from ggufkit.steps import Result, Workspace
from ggufkit.streaming import route

GGUFS = click.argument("ggufs", nargs=-1, required=True, type=options.FILE)


def _hashed(path: Path) -> GgufFile:
    gguf = read_gguf(path)
    return read_gguf(path, sha256_file(gguf.path))


@click.command("perplexity")
@GGUFS
@click.option("--base", type=options.FILE, help="GGUF to measure the KL divergence from: the F16 they come from.")
@options.eval_options
@quality.precision_option
@quality.scratch_option
@click.option("--strategy", type=click.Choice(route.STRATEGIES), help="How base logits travel.  [default: chosen]")
@options.backend_options
@options.redo_options
@options.json_option
def perplexity_command(ggufs: tuple[Path, ...], base: Path | None, as_json: bool, **rest: Any) -> None:
    """Perplexity of GGUF files on a text; with --base their KL divergence from it, too.

    \b
    Examples:
        ggufkit perplexity model-Q4_K_M.gguf --corpus wiki.test.raw --chunks 100
        ggufkit perplexity model-*.gguf --base model-F16.gguf --precision 2%
    """
    paths = [path for path in ggufs if base is None or path.resolve() != base.resolve()]
    files = [_hashed(path) for path in ([base] if base else []) + paths]
    precision, how = rest.pop("precision"), Comparison(rest.pop("scratch_limit"), rest.pop("strategy"))
    if precision is not None and base is None:
        raise UsageError("--precision is about KL divergence.", hint="Give the file to compare with as --base.")
    evaluation = EvalOptions(rest.pop("n_ctx"), rest.pop("n_chunks"), rest.pop("ngl"), precision)
    with reporting() as reporter:
        text = corpus.find(rest.pop("corpus"), reporter)
        session = _session(ggufs[0], reporter, **rest)
        with session.workspace.locked():
            if base is None:
                done = perplexity.measure_all(files, text, evaluation, session)
            else:
                done = divergence.measure_all(files[0], files[1:], text, evaluation, how, session)
    _show(files, done, as_json)


def _session(first: Path, reporter: Any, backend: str, threads: int, force: bool, explain: bool) -> Session:
    tools = toolchain.find(backend, reporter)
    return Session(tools, Workspace(first.resolve().parent), reporter, threads, force, explain)


def _show(files: Sequence[GgufFile], done: Sequence[Result], as_json: bool) -> None:
    found = [(file.path.name, measurements.load(result.path)) for file, result in zip(files, done, strict=True)]
    if as_json:
        click.echo(json.dumps({name: [asdict(m) for m in ms] for name, ms in found}, indent=1))
        return
    screen = console(stderr=False)
    for name, values in found:
        screen.print(name)
        for m in values:
            screen.print(f"  {_line(m)}")


def _line(m: Measurement) -> str:
    error = "" if m.stderr is None else f" ± {m.stderr:.5g}"
    return f"{m.metric:<10} {m.value:.8g}{error} {m.unit}".rstrip()


@click.command("bench")
@GGUFS
@click.option(
    "--bench-reps", type=click.IntRange(1), default=5, show_default=True, help="Repetitions of llama-bench."
)
@options.backend_options
@options.redo_options
@options.json_option
def bench_command(ggufs: tuple[Path, ...], bench_reps: int, as_json: bool, **rest: Any) -> None:
    """Prompt-processing (pp512) and generation (tg128) speed of GGUF files.

    \b
    Example:
        ggufkit bench model-Q4_K_M.gguf model-Q8_0.gguf
    """
    files = [_hashed(path) for path in ggufs]
    timing = BenchOptions(repetitions=bench_reps, ngl=rest.pop("ngl"))
    with reporting() as reporter:
        session = _session(ggufs[0], reporter, **rest)
        with session.workspace.locked():
            done = [bench.bench(file, timing, session) for file in files]
    _show(files, done, as_json)


@click.command("inspect")
@click.argument("gguf", type=options.FILE)
@click.option(
    "--against", type=options.FILE, help="The F16 that GGUF was made from: relative error of each tensor."
)
@options.json_option
def inspect_command(gguf: Path, against: Path | None, as_json: bool) -> None:
    """Architecture, parameters, bits per weight, tensors per type, tokenizer and template of GGUF.

    With --against, how far each tensor is from the original's, worst first.

    \b
    Examples:
        ggufkit inspect model-Q4_K_M.gguf
        ggufkit inspect model-Q4_K_M.gguf --against model-F16.gguf
    """
    if against is not None:
        _inspect_against(read_header(gguf), read_header(against), as_json)
        return
    header = read_header(gguf)
    facts = _facts(header)
    if as_json:
        click.echo(json.dumps(facts, indent=1))
        return
    screen = console(stderr=False)
    for key, value in facts.items():
        shown = ", ".join(f"{n}× {t}" for t, n in value.items()) if isinstance(value, dict) else value
        screen.print(f"{key:<18} {shown}", markup=False)


def _inspect_against(header: GgufHeader, reference: GgufHeader, as_json: bool) -> None:
    from ggufkit.llama.against import by_type, compare_tensors

    with reporting() as reporter, reporter.step(f"Comparing the tensors of {header.path.name}") as progress:
        errors = compare_tensors(header, reference, lambda done, total: progress.update(done, total, "tensors"))
    types = by_type(errors)
    if as_json:
        listing = {"types": dict(types), "tensors": [asdict(error) for error in errors]}
        click.echo(json.dumps(listing, indent=1))
        return
    screen = console(stderr=False)
    screen.print(f"{'tensor':<40} {'type':<8} relative error  largest error", markup=False)
    for e in errors:
        shown = "not known" if e.relative_error is None else f"{e.relative_error:14.6f}  {e.max_error:13.6f}"
        screen.print(f"{e.name:<40} {e.type:<8} {shown}", markup=False)
    screen.print("\nBy type: " + ", ".join(f"{kind} {error:.6f}" for kind, error in types.items()), markup=False)


def _facts(header: GgufHeader) -> dict[str, Any]:
    """What there is to say about a file, in the order it is shown."""
    gguf, meta = summarize(header), header.metadata
    template = str(meta.get("tokenizer.chat_template") or "")
    return {
        "file": str(gguf.path),
        "size": size(gguf.size_bytes),
        "size_bytes": gguf.size_bytes,
        "architecture": gguf.architecture,
        "name": meta.get("general.name"),
        "parameters": gguf.n_params,
        "bits_per_weight": round(gguf.bpw, 4),
        "type": gguf.type,
        "tensors": dict(gguf.tensor_types),
        "layers": header.hparam("block_count"),
        "context_length": header.hparam("context_length"),
        "embedding_length": header.hparam("embedding_length"),
        "vocabulary": header.by_name["token_embd.weight"].shape[-1]
        if "token_embd.weight" in header.by_name
        else None,
        "tokenizer": meta.get("tokenizer.ggml.model"),
        "pre_tokenizer": meta.get("tokenizer.ggml.pre"),
        "chat_template": f"{len(template)} characters" if template else "none",
    }
