"""A Modelfile from what a GGUF says: which kind, its proof, its parameters, and a comment that tells the reader."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from ggufkit.core.errors import GgufkitError, InputError
from ggufkit.modelfile.grammar import Modelfile
from ggufkit.modelfile.install import NATIVE_SINCE, Version
from ggufkit.modelfile.jinja_to_go import LearnedTemplate, to_go_template
from ggufkit.modelfile.metadata import ChatMeta
from ggufkit.modelfile.native import prove_native
from ggufkit.modelfile.parameters import parameters
from ggufkit.modelfile.prove import DEFAULT_COUNT, Proof, Vocabulary, prove
from ggufkit.modelfile.reference import Reference

GO, NATIVE, PLAIN = "go", "native", "plain"
COMPLETION = "{{ .Prompt }}"


@dataclass(frozen=True)
class ModelfileRequest:
    """What the user asked for, and what this machine has.

    Args:
        base: the GGUF's path as the Modelfile is to name it.
        kind: "go" or "native"; None leaves the choice to the proof.
        version: of the Ollama on this machine; None if there is none.
        engine: gives the program that renders with llama.cpp's engine; None if there is no toolchain.
        vocabulary: tokenizers, to prove token ids as well.
        num_ctx: tokens of context; None leaves it to Ollama.
        template: a Go template to prove in place of the learned one.
        force: write an unproven Modelfile rather than none.
    """

    base: str
    kind: str | None = None
    version: Version | None = None
    engine: Callable[[], Path] | None = None
    vocabulary: Vocabulary | None = None
    num_ctx: int | None = None
    system: str | None = None
    template: str | None = None
    force: bool = False
    count: int = DEFAULT_COUNT


@dataclass(frozen=True)
class ModelfileResult:
    """A Modelfile with its kind, its proof (None: unproven, or nothing to prove) and why it is of that kind."""

    modelfile: Modelfile
    kind: str
    proof: Proof | None
    why: str


def make(meta: ChatMeta, request: ModelfileRequest) -> ModelfileResult:
    """Make the Modelfile of a model: of the first kind that can be proven.

    Raises:
        UnprovenTemplate, UnlearnableTemplate, ToolchainError: no kind can be proven, and nothing forces one.
    """
    if meta.chat_template is None:
        why = "The model has no chat template: it continues text, and does not chat."
        return _made(meta, request, PLAIN, None, None, [why])
    reasons: list[str] = []
    failures: list[GgufkitError] = []
    for kind in _kinds(request):
        try:
            return (_go if kind == GO else _native)(meta, request, reasons)
        except GgufkitError as failure:
            failures.append(failure)
            reasons.append(f"Not {kind}: {failure.message}")
    if request.force:
        return _forced(meta, request, failures[0])
    raise failures[0]


def _kinds(request: ModelfileRequest) -> list[str]:
    """Kinds to try in turn: the one asked for, else what the Ollama at hand can do, else what every one can."""
    if request.kind is not None:
        if request.kind not in (GO, NATIVE):
            raise InputError(f"The template of a Modelfile is of the kind go or native, not {request.kind}.")
        return [request.kind]
    if request.version is None:
        return [GO, NATIVE]
    return [NATIVE, GO] if request.version >= NATIVE_SINCE else [GO]


def _go(meta: ChatMeta, request: ModelfileRequest, reasons: list[str]) -> ModelfileResult:
    learned = to_go_template(meta)
    converted = replace(learned, text=request.template or learned.text)
    proof = prove(
        Reference(meta), converted.text, converted.domain, count=request.count, vocabulary=request.vocabulary
    )
    whence = "converted from" if converted == learned else "held against"
    notes = [f"Go template, {whence} the GGUF's own: {_proven(proof)}.", *_noted(reasons, converted.limits)]
    return _made(meta, request, GO, converted, proof, notes)


def _native(meta: ChatMeta, request: ModelfileRequest, reasons: list[str]) -> ModelfileResult:
    if request.engine is None:
        raise InputError(
            "There is no llama.cpp toolchain to prove the GGUF's own template with.",
            hint="Run `ggufkit toolchain install`, or use --template go.",
        )
    proof = prove_native(meta, request.engine(), count=request.count)
    notes = [f"No TEMPLATE: Ollama uses the GGUF's own. llama.cpp's engine: {_proven(proof)}.", *_noted(reasons)]
    return _made(meta, request, NATIVE, None, proof, notes)


def _forced(meta: ChatMeta, request: ModelfileRequest, failure: GgufkitError) -> ModelfileResult:
    """The first kind that was to be tried, with a comment that it is not proven."""
    kind = _kinds(request)[0]
    converted = to_go_template(meta, unchecked=True) if kind == GO else None
    return _made(meta, request, kind, converted, None, [f"NOT PROVEN: {failure.message}"])


def _made(
    meta: ChatMeta,
    request: ModelfileRequest,
    kind: str,
    converted: LearnedTemplate | None,
    proof: Proof | None,
    notes: list[str],
) -> ModelfileResult:
    modelfile = Modelfile(
        base=request.base,
        template=COMPLETION if kind == PLAIN else converted.text if converted else None,
        system=request.system,
        parameters=parameters(meta, converted.shape if converted else None, request.num_ctx),
        license=meta.license,
        comments=(f"Made by ggufkit for {meta.name}.", *notes),
    )
    if kind == NATIVE:
        modelfile = replace(modelfile, requires=".".join(map(str, NATIVE_SINCE)))
    return ModelfileResult(modelfile, kind, proof, notes[0])


def _proven(proof: Proof) -> str:
    ids = " and token ids" if proof.token_ids else ""
    return f"{proof.conversations} prompts{ids} identical ({proof.domain.describe()})"


def _noted(reasons: list[str], limits: tuple[str, ...] = ()) -> list[str]:
    return [*reasons, *(f"Beyond that: {limit}." for limit in limits)]
