"""Step: the Ollama Modelfile of a GGUF, beside it, with a template that was proven."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ggufkit.core import machine, variants
from ggufkit.core.errors import GgufkitError, InputError
from ggufkit.core.inputs import Input
from ggufkit.core.jsonfile import read_json
from ggufkit.core.records import Json, Toolchain
from ggufkit.llama import evaluates, launcher, vocab
from ggufkit.llama.gguf import GgufHeader, read_header
from ggufkit.modelfile import (
    ModelfileRequest,
    ModelfileResult,
    Vocabulary,
    context_length,
    install,
    make,
    read_meta,
    renderer,
)
from ggufkit.modelfile import write as write_text
from ggufkit.steps.notes import GgufNotes
from ggufkit.steps.session import Session
from ggufkit.steps.step import Made, Recipe, Result, was_changed

STEP, VERSION = "modelfile", 1


@dataclass(frozen=True)
class ModelfileOptions:
    """What is wanted of a Modelfile.

    Args:
        kind: "go" or "native"; None leaves the choice to the proof and to the Ollama at hand.
        checkpoint: directory of the original, for its tokenizer and its generation_config.json.
        force: write an unproven one rather than none.
    """

    kind: str | None = None
    checkpoint: Path | None = None
    system: str | None = None
    force: bool = False


def make_modelfile(gguf: Path, base: str, options: ModelfileOptions, tools: Toolchain | None) -> ModelfileResult:
    """The Modelfile of a GGUF.

    Args:
        base: the GGUF's path as the Modelfile names it.
        tools: without them only a Go template can be proven, and without token ids.

    Raises:
        UnprovenTemplate, UnlearnableTemplate: no template can be proven, and nothing forces one.
    """
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


class Writer:
    """Writes `Modelfile.<variant-type>` beside each file of a build.

    One proof serves all files: they carry the same template and vocabulary. The context fits the largest of them.
    """

    def __init__(self, options: ModelfileOptions, session: Session) -> None:
        self.options = options
        self.session = session
        self._made: ModelfileResult | None = None

    def write_all(self, files: Sequence[Result]) -> list[Result]:
        """Write them all but those that were edited; a template that cannot be proven is told once, and fails nothing."""
        largest = max(files, key=lambda file: file.path.stat().st_size)
        if not evaluates.generates(read_header(largest.path)):
            self.session.reporter.info("No Modelfiles: an encoder does not chat.")
            return []
        try:
            return [self._write(file, largest) for file in files if not self._is_edited(_output(file))]
        except GgufkitError as error:
            first = error.message.splitlines()[0]
            self.session.reporter.warn(f"No Modelfile: {first} See `ggufkit modelfile {largest.path.name}`.")
            return []

    def _write(self, file: Result, largest: Result) -> Result:
        def create(partial: Path) -> Made:
            made = self._prove(largest)
            partial.write_text(write_text(replace(made.modelfile, base=f"./{file.path.name}")), encoding="utf-8")
            return Made(notes={"kind": made.kind, "why": made.why})

        params: dict[str, Json] = {"kind": self.options.kind, "system": self.options.system}
        params |= {"file": file.path.name, "memory_gib": machine.total_memory() >> 30}
        inputs = {"gguf": file.sha256, "largest": largest.sha256}
        reads = [Input(one.path, one.sha256) for one in (file, largest)]
        recipe = Recipe(STEP, VERSION, inputs, params, self.session.tools.identity, reads)
        session = self.session
        return session.ensure(recipe, _output(file), create)

    def _is_edited(self, path: Path) -> bool:
        """Whether the user changed a Modelfile, which then stays."""
        edited = not self.session.force and was_changed(path)
        if edited:
            self.session.reporter.info(f"{path.name} was edited and stays as it is; --force makes it anew.")
        return edited

    def _prove(self, gguf: Result) -> ModelfileResult:
        if self._made is None:
            with self.session.reporter.step("Proving the chat template"):
                self._made = make_modelfile(gguf.path, f"./{gguf.path.name}", self.options, self.session.tools)
        return self._made


def _output(file: Result) -> Path:
    made = GgufNotes.from_manifest(file.manifest)
    return file.path.with_name(f"Modelfile.{variants.infix(made.variant)}{made.type}")
