"""Step: the Ollama Modelfile of a GGUF, beside it, with a template that was proven."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ggufkit.core import machine, variants
from ggufkit.core.errors import GgufkitError
from ggufkit.core.expected import timed
from ggufkit.core.manifest import Notes
from ggufkit.core.part_names import whole_of
from ggufkit.core.records import Json
from ggufkit.llama import evaluates
from ggufkit.llama.gguf import as_input, read_header
from ggufkit.modelfile.grammar import write as write_text
from ggufkit.modelfile.proven import ModelfileOptions, ProvenModelfile, make_modelfile
from ggufkit.steps.notes import GgufNotes
from ggufkit.steps.session import Session
from ggufkit.steps.step import Made, Recipe, Result, was_changed

STEP, VERSION = "modelfile", 1


@dataclass(frozen=True)
class ModelfileNotes(Notes):
    """Of which kind a Modelfile is, why, and the prompt that the model's own template makes of a short chat."""

    kind: str = ""
    why: str = ""
    prompt: str = ""


class Writer:
    """Writes `Modelfile.<variant-type>` beside each file of a build.

    One proof serves all files: they carry the same template and vocabulary. The context fits the largest of them.

    Args:
        mmproj: what reads images or sound for all of them.
    """

    def __init__(self, options: ModelfileOptions, session: Session, mmproj: Result | None = None) -> None:
        self.options = options
        self.session = session
        self.mmproj = mmproj
        self._proofs: dict[Path, ProvenModelfile | GgufkitError] = {}

    def prove(self, largest: Result) -> None:
        """Prove the template of what will be the largest file beside other work; `write_all` tells what became of it."""
        if evaluates.generates(read_header(largest.path)):
            self._proofs[largest.path] = self._proof(largest)

    def write_all(self, files: Sequence[Result]) -> list[Result]:
        """Write them all but those that were edited; a template that cannot be proven is told once, and fails nothing."""
        largest = max(files, key=lambda file: read_header(file.path).size_bytes)
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
            made = self._proven(largest)
            projector = None if self.mmproj is None else f"./{self.mmproj.path.name}"
            named = replace(made.modelfile, base=f"./{whole_of(file.path).name}", projector=projector)
            partial.write_text(write_text(named), encoding="utf-8")
            return Made(notes=ModelfileNotes(made.kind, made.why, made.prompt).to_notes())

        params: dict[str, Json] = {"kind": self.options.kind, "system": self.options.system}
        params |= {"file": whole_of(file.path).name, "memory_gib": machine.total_memory() >> 30}
        inputs = {"gguf": file.sha256, "largest": largest.sha256}
        if self.mmproj is not None:
            params["mmproj"] = self.mmproj.path.name
        reads = [as_input(one.path, one.sha256) for one in (file, largest)]
        recipe = Recipe(STEP, VERSION, inputs, params, self.session.tools.identity, reads)
        session = self.session
        return session.ensure(recipe, _output(file), create)

    def _is_edited(self, path: Path) -> bool:
        """Whether the user changed a Modelfile, which then stays."""
        edited = not self.session.force and was_changed(path)
        if edited:
            self.session.reporter.info(f"{path.name} was edited and stays as it is; --force makes it anew.")
        return edited

    def _proven(self, gguf: Result) -> ProvenModelfile:
        if gguf.path not in self._proofs:
            self._proofs[gguf.path] = self._proof(gguf)
        found = self._proofs[gguf.path]
        if isinstance(found, GgufkitError):
            raise found
        return found

    def _proof(self, gguf: Result) -> ProvenModelfile | GgufkitError:
        with timed(self.session.reporter, "Proving the chat template", self.session.work("prove", 1)):
            try:
                return make_modelfile(gguf.path, f"./{whole_of(gguf.path).name}", self.options, self.session.tools)
            except GgufkitError as error:
                return error


def _output(file: Result) -> Path:
    made = GgufNotes.from_manifest(file.manifest)
    return file.path.with_name(f"Modelfile.{variants.infix(made.variant)}{made.type}")
