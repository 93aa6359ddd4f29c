"""The command that looks into a file: a module of its own, because it is to answer at once."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from ggufkit.cli import options, parameter_types
from ggufkit.cli.terminal import console, emit, reporting
from ggufkit.cli.types_table import types_table
from ggufkit.core.units import size
from ggufkit.llama.gguf import GgufHeader, named_type, read_header, summarize
from ggufkit.llama.memory import n_vocab
from ggufkit.llama.part_set import require_recorded
from ggufkit.recipes.type_map import matrices


@click.command("inspect")
@click.argument("gguf", type=parameter_types.FILE)
@click.option(
    "--against", type=parameter_types.FILE, help="The F16 that GGUF was made from: relative error of each tensor."
)
@options.json_option
def inspect_command(gguf: Path, against: Path | None, as_json: bool) -> None:
    """Architecture, parameters, bits per weight, tokenizer, template and the types of the tensors of GGUF.

    With --against, how far each tensor is from the original's, worst first.

    \b
    Examples:
        ggufkit inspect model-Q4_K_M.gguf
        ggufkit inspect model-Q4_K_M.gguf --against model-F16.gguf
    """
    if against is not None:
        header, reference = read_header(gguf), read_header(against)
        for one in (header, reference):
            require_recorded(one.files)
        _inspect_against(header, reference, as_json)
        return
    header = read_header(gguf)
    require_recorded(header.files)
    facts = _facts(header)
    if as_json:
        emit(json.dumps(facts, indent=1) + "\n")
        return
    screen = console(stderr=False)
    for key, value in facts.items():
        shown = ", ".join(f"{n}× {t}" for t, n in value.items()) if isinstance(value, dict) else value
        screen.print(f"{key:<18} {shown}")
    screen.print()
    screen.print(types_table(matrices(header.tensors)))


def _inspect_against(header: GgufHeader, reference: GgufHeader, as_json: bool) -> None:
    from ggufkit.llama.tensor_error import by_type, compare_tensors

    with reporting() as reporter, reporter.step(f"Comparing the tensors of {header.path.name}") as progress:
        errors = compare_tensors(header, reference, lambda done, total: progress.update(done, total, "tensors"))
    types = by_type(errors)
    if as_json:
        listing = {"types": dict(types), "tensors": [asdict(error) for error in errors]}
        emit(json.dumps(listing, indent=1) + "\n")
        return
    screen = console(stderr=False)
    screen.print(f"{'tensor':<40} {'type':<8} relative error  largest error")
    for e in errors:
        shown = "not known" if e.relative_error is None else f"{e.relative_error:14.6f}  {e.max_error:13.6f}"
        screen.print(f"{e.name:<40} {e.type:<8} {shown}")
    screen.print()
    screen.print("By type: " + ", ".join(f"{kind} {error:.6f}" for kind, error in types.items()))


def _facts(header: GgufHeader) -> dict[str, Any]:
    """What there is to say about a file, in the order it is shown."""
    gguf, meta = summarize(header), header.metadata
    template = str(meta.get("tokenizer.chat_template") or "")
    return {
        "file": str(gguf.path),
        **({"parts": len(header.parts)} if header.parts else {}),
        "size": size(gguf.size_bytes),
        "size_bytes": gguf.size_bytes,
        "architecture": gguf.architecture,
        "name": meta.get("general.name"),
        "parameters": gguf.n_params,
        "bits_per_weight": round(gguf.bpw, 4),
        "type": named_type(header) or gguf.type,
        "tensors": dict(gguf.tensor_types),
        "layers": header.hparam("block_count"),
        "context_length": header.hparam("context_length"),
        "embedding_length": header.hparam("embedding_length"),
        "vocabulary": n_vocab(header) or None,
        "tokenizer": meta.get("tokenizer.ggml.model"),
        "pre_tokenizer": meta.get("tokenizer.ggml.pre"),
        "chat_template": f"{len(template)} characters" if template else "none",
    }
