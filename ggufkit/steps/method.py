"""Step: a method of an installed package: checkpoint -> checkpoint, or quantized GGUF -> the same with other values."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ggufkit.core import oserrors
from ggufkit.core.errors import GgufkitError, ToolError
from ggufkit.core.inputs import Input
from ggufkit.core.manifest import Params, read_manifest
from ggufkit.core.methods import Method, Work
from ggufkit.core.records import Checkpoint, GgufFile, Json
from ggufkit.llama.gguf import read_header
from ggufkit.models.checkpoint import open_checkpoint, stored_tensors
from ggufkit.models.files import files_of, fingerprint
from ggufkit.steps.load_check import settle_and_require_computes
from ggufkit.steps.notes import TypedNotes
from ggufkit.steps.quantize import QuantizeNotes, QuantizeParams
from ggufkit.steps.session import Session
from ggufkit.steps.step import Made, Recipe, Result
from ggufkit.texts.corpus import Corpus

STEP, VERSION = "method", 1


@dataclass(frozen=True)
class MethodParams(Params):
    """What decides the result of a package's method besides its inputs: the method, its package, and its options."""

    method: str = ""
    package: str = ""
    package_version: str = ""
    method_options: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True)
class MethodNotes(TypedNotes):
    """What is known of the result; `said` is what the method says itself, the rest as a quantized file has it.

    Args:
        method_text: what it was calibrated on, "" where it is not.
        overrides: what the file was quantized with besides its type.
    """

    n_fallback: int | None = None
    said: Mapping[str, Json] = field(default_factory=dict)
    method_text: str = ""
    overrides: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True)
class Asked:
    """A method with its options, and the text that it is calibrated on."""

    method: Method
    options: Any = None
    text: Corpus | None = None

    @property
    def params(self) -> dict[str, Json]:
        """What goes into the recipe of the step."""
        told = asdict(self.options) if self.options is not None else {}
        return MethodParams(self.method.name, self.method.package, self.method.version, told).to_params()


def change_checkpoint(checkpoint: Checkpoint, asked: Asked, output: Path, session: Session) -> Result:
    """Change a checkpoint to `output`, a directory, unless that is done already.

    Raises:
        ToolError: the method failed, or left something else than was agreed.
    """
    digest = fingerprint(checkpoint.path, session.reporter)
    reads = [Input(checkpoint.path, digest, files_of)]

    def make(partial: Path) -> Made:
        partial.mkdir()
        said = _run(asked, checkpoint.path, partial, session)
        try:
            open_checkpoint(partial, checkpoint.name, checkpoint.source, checkpoint.revision)
        except GgufkitError as error:
            raise _failed(asked, f"it left no checkpoint: {error.message}") from error
        _require_same(asked, _shapes(checkpoint.path), _shapes(partial))
        return Made(notes=MethodNotes(said=said, method_text=_name(asked.text)).to_notes())

    work = session.work("method", checkpoint.n_params, asked.method.name)
    return session.ensure(_recipe({"checkpoint": digest}, reads, asked), output, make, work=work)


def change_gguf(
    quantized: GgufFile, base: GgufFile, asked: Asked, output: Path, variant: str, session: Session
) -> Result:
    """Change the values of a quantized file to `output`, unless that is done already. Raises ToolError as above.

    Args:
        base: what it was quantized from.
        variant: what the result is called by.
    """
    found = read_manifest(quantized.path)
    before = QuantizeNotes.from_manifest(found) if found is not None else QuantizeNotes()
    inputs = {"quantized": str(quantized.sha256), "base": str(base.sha256)}
    reads = (quantized.as_input(), base.as_input())

    def make(partial: Path) -> Made:
        said = _run(asked, quantized.path, partial, session, base.path)
        if not partial.is_file():
            raise _failed(asked, "it wrote no file")
        _require_same(asked, _types(quantized.path), _types_left(asked, partial))
        settle_and_require_computes(partial, session)
        notes = MethodNotes(
            before.name, variant, before.type, n_fallback=before.n_fallback, said=said, method_text=_name(asked.text),
            overrides=QuantizeParams.from_manifest(found).overrides if found is not None else {}, target=before.target,
        )  # fmt: skip
        return Made(notes=notes.to_notes())

    work = session.work("method", base.n_params, asked.method.name)
    return session.ensure(_recipe(inputs, reads, asked), output, make, work=work)


def _recipe(inputs: Mapping[str, str], reads: Sequence[Input], asked: Asked) -> Recipe:
    text = {} if asked.text is None else {"calibration": asked.text.sha256}
    more = [] if asked.text is None else [asked.text.as_input()]
    return Recipe(STEP, VERSION, {**inputs, **text}, asked.params, reads=(*reads, *more))


def _name(text: Corpus | None) -> str:
    return "" if text is None else text.name


def _run(asked: Asked, source: Path, output: Path, session: Session, base: Path | None = None) -> dict[str, Json]:
    """Let the method work; whatever it raises that is no error of ggufkit is one of its package."""
    text, run = asked.text.path if asked.text is not None else None, asked.method.run
    work = Work(source, output, asked.options, base, text, session.threads, session.reporter)
    with session.reporter.step(f"{asked.method.name}: {source.name}"):
        try:
            told = dict((run(work) if run is not None else None) or {})
            facts: dict[str, Json] = json.loads(json.dumps(told))
            return facts
        except (Exception, SystemExit) as error:
            if isinstance(error, GgufkitError) or oserrors.is_of_disk(error):
                raise
            said = " ".join(str(error).split())
            raise _failed(asked, f"{type(error).__name__}: {said}") from error


def _failed(asked: Asked, why: str) -> ToolError:
    package = asked.method.package
    return ToolError(
        f"{asked.method.title} failed on this model: {why}.", hint=f"Report it to {package}'s authors."
    )


def _shapes(checkpoint: Path) -> dict[str, object]:
    return {tensor.name: tuple(tensor.shape) for tensor in stored_tensors(checkpoint)}


def _types(gguf: Path) -> dict[str, object]:
    return {tensor.name: (tensor.shape, tensor.type) for tensor in read_header(gguf).tensors}


def _types_left(asked: Asked, gguf: Path) -> dict[str, object]:
    try:
        return _types(gguf)
    except GgufkitError as error:
        raise _failed(asked, f"it left no whole GGUF: {error.message}") from error


def _require_same(asked: Asked, before: Mapping[str, object], after: Mapping[str, object]) -> None:
    """What was planned for the original holds for the changed one."""
    odd = next((name for name in (*before, *after) if before.get(name) != after.get(name)), None)
    if odd is not None:
        raise _failed(asked, f"tensor {odd} was {before.get(odd, 'not there')}, is {after.get(odd, 'not there')}")
