"""The work of `proven` in its process: read what a GGUF says, learn its chat template and prove the Modelfile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ggufkit.core import confined, machine
from ggufkit.core.errors import InputError
from ggufkit.core.jsonfile import read_json
from ggufkit.core.records import Json, Toolchain
from ggufkit.llama import evaluates, launcher, vocab
from ggufkit.llama.gguf import GgufHeader, read_header
from ggufkit.modelfile import install
from ggufkit.modelfile.make import ModelfileRequest, ModelfileResult, make
from ggufkit.modelfile.metadata import read_meta
from ggufkit.modelfile.native import renderer
from ggufkit.modelfile.parameters import context_length
from ggufkit.modelfile.prove import Vocabulary
from ggufkit.modelfile.proven import ModelfileOptions


def _work(asked: dict[str, Any]) -> Json:
    """The work of the other process."""
    checkpoint, found = asked["options"].pop("checkpoint"), asked["tools"]
    options = ModelfileOptions(**asked["options"], checkpoint=checkpoint and Path(checkpoint))
    paths = {name: found[name] and Path(found[name]) for name in ("dir", "source")} if found else {}
    made = _make(Path(asked["gguf"]), asked["base"], options, Toolchain(**{**found, **paths}) if found else None)
    return {"modelfile": asdict(made.modelfile), "kind": made.kind, "why": made.why}


def _make(gguf: Path, base: str, options: ModelfileOptions, tools: Toolchain | None) -> ModelfileResult:
    evaluates.require_generates(
        gguf, "has no prompts to render", "Ollama takes it as it is: `FROM ./FILE.gguf` is enough."
    )
    header = read_header(gguf)
    meta = read_meta(header.metadata, _generation(options.checkpoint))
    program = install.find_ollama()
    request = ModelfileRequest(
        base=base,
        kind=options.kind,
        version=install.version(program) if program else None,
        engine=(lambda: renderer(tools)) if tools else None,
        vocabulary=_vocabulary(header, options.checkpoint, tools),
        num_ctx=context_length(meta, header.size_bytes, machine.total_memory()),
        system=options.system,
        force=options.force,
    )
    return make(meta, request)


def _generation(checkpoint: Path | None) -> dict[str, Json] | None:
    """The checkpoint's generation_config.json; one that cannot be read is as good as none."""
    if checkpoint is None:
        return None
    try:
        return read_json(checkpoint / "generation_config.json", dict[str, Any])
    except InputError:
        return None


def _vocabulary(header: GgufHeader, checkpoint: Path | None, tools: Toolchain | None) -> Vocabulary | None:
    """The tokenizers to prove ids with: the original's against the GGUF's, or the GGUF's with itself."""
    if tools is None or tools.source is None:
        return None
    binaries, source = tools.dir, tools.source

    def converted(texts: Sequence[str]) -> list[list[int]]:
        return vocab.tokenize(binaries, source, header.path, texts)

    if checkpoint is None or not (checkpoint / "tokenizer.json").is_file():
        return Vocabulary(converted, converted)
    return Vocabulary(lambda texts: launcher.original_ids(checkpoint, list(texts)), converted)


if __name__ == "__main__":
    confined.serve(_work)
