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
from ggufkit.modelfile.conversation import Conversation, Message
from ggufkit.modelfile.make import ModelfileRequest, make
from ggufkit.modelfile.metadata import ChatMeta, read_meta
from ggufkit.modelfile.native import renderer
from ggufkit.modelfile.parameters import context_length
from ggufkit.modelfile.prove import Vocabulary
from ggufkit.modelfile.proven import ModelfileOptions
from ggufkit.modelfile.reference import Reference


def _work(asked: dict[str, Any]) -> Json:
    """The work of the other process."""
    checkpoint, found = asked["options"].pop("checkpoint"), asked["tools"]
    options = ModelfileOptions(**asked["options"], checkpoint=checkpoint and Path(checkpoint))
    paths = {name: found[name] and Path(found[name]) for name in ("dir", "source")} if found else {}
    gguf, tools = Path(asked["gguf"]), Toolchain(**{**found, **paths}) if found else None
    evaluates.require_generates(
        gguf, "has no prompts to render", "Ollama takes it as it is: `FROM ./FILE.gguf` is enough."
    )
    header = read_header(gguf)
    meta = read_meta(header.metadata, _generation(options.checkpoint))
    made = make(meta, _request(header, meta, asked["base"], options, tools))
    return {"modelfile": asdict(made.modelfile), "kind": made.kind, "why": made.why, "prompt": _prompt(meta)}


def _prompt(meta: ChatMeta) -> str:
    """What the model's own template makes of a short chat; "" where it makes nothing of it."""
    if meta.chat_template is None:
        return ""
    chat = Conversation((Message("system", "{system_prompt}"), Message("user", "{prompt}")))
    return Reference(meta).render(chat) or ""


def _request(
    header: GgufHeader, meta: ChatMeta, base: str, options: ModelfileOptions, tools: Toolchain | None
) -> ModelfileRequest:
    program = install.find_ollama()
    return ModelfileRequest(
        base=base,
        kind=options.kind,
        version=install.version(program) if program else None,
        engine=(lambda: renderer(tools)) if tools else None,
        vocabulary=_vocabulary(header, options.checkpoint, tools),
        num_ctx=context_length(meta, header.size_bytes, machine.total_memory()),
        system=options.system,
        template=options.template,
        force=options.force,
    )


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
