"""`template`, `system` and `params`: what `ollama run hf.co/OWNER/NAME` reads of a repository, where it ignores Modelfiles.

A repository has one of each for all its files, so the Modelfiles of these must agree. The template is one that is proven:
a Modelfile's own, as it was proven when it was made or is now, or one for Go in place of the GGUF's own.
Source: huggingface/hub-docs, `docs/hub/ollama.md`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ggufkit.core.errors import GgufkitError
from ggufkit.core.manifest import read_manifest
from ggufkit.core.part_names import whole_of
from ggufkit.core.progress import Reporter
from ggufkit.core.records import Json
from ggufkit.llama.gguf import gguf_sha256, read_header
from ggufkit.modelfile import grammar
from ggufkit.modelfile.make import COMPLETION, GO
from ggufkit.modelfile.proven import ModelfileOptions, make_modelfile
from ggufkit.steps.modelfile import ModelfileNotes
from ggufkit.steps.step import was_changed

TEMPLATE, SYSTEM, PARAMS = "template", "system", "params"
_STOP = "stop"
_ALL = f"{TEMPLATE}, {SYSTEM}, {PARAMS}"
_NOT_CARRIED = ("adapter", "message", "renderer", "parser", "draft")
_ELSEWHERE = ("model", "license", "requires")


@dataclass(frozen=True)
class Chat:
    """What a repository tells Ollama.

    Args:
        files: content by name; a file that nothing is to be said in is missing.
        left_out: what could not be told, with the reason.
        why: how the template was proven.
        prompt: what the model's own template makes of a short chat.
    """

    files: Mapping[str, bytes] = field(default_factory=dict)
    left_out: tuple[tuple[str, str], ...] = ()
    why: str = ""
    prompt: str = ""


@dataclass(frozen=True)
class _Told:
    """What one Modelfile says."""

    path: Path
    template: str | None
    system: str | None
    params: Mapping[str, Json]
    others: tuple[str, ...]


def chat_files(modelfiles: Mapping[Path, Path], reporter: Reporter) -> Chat:
    """What a repository is to hold for Ollama, from the Modelfiles of its files.

    Args:
        modelfiles: with the GGUF that each is for.
    """
    told = {file: _read(file) for file in modelfiles}
    if not told:
        return Chat()
    disagreement = _disagreement(list(told.values())) or _other_chats(list(modelfiles.values()))
    if disagreement is not None:
        return Chat(left_out=((_ALL, disagreement),))
    first = next((f for f in told if _as_made(f, modelfiles[f]) is not None), next(iter(told)))
    template = _template(told[first], modelfiles[first], reporter)
    texts = {
        TEMPLATE: template.text,
        SYSTEM: told[first].system,
        PARAMS: _json(told[first].params, template.stops),
    }
    left_out = [(TEMPLATE, template.unproven)] if template.unproven else []
    left_out += [
        (w.upper(), f"{first.name} has it, and a repository has no file for it") for w in told[first].others
    ]
    files = {name: text.encode() for name, text in texts.items() if text is not None}
    return Chat(files, tuple(left_out), template.why, template.prompt)


@dataclass(frozen=True)
class _Template:
    """A proven template, or why there is none; with what ends an answer besides what the Modelfile says."""

    text: str | None = None
    why: str = ""
    prompt: str = ""
    stops: tuple[str, ...] = ()
    unproven: str = ""


def _read(file: Path) -> _Told:
    commands = grammar.parse(file.read_text(encoding="utf-8"))
    texts = {c.name: c.args for c in commands if c.name in (TEMPLATE, SYSTEM)}
    others = tuple(dict.fromkeys(c.name for c in commands if c.name in _NOT_CARRIED))
    params: dict[str, Json] = {}
    for command in commands:
        if command.name not in (*texts, *_NOT_CARRIED, *_ELSEWHERE):
            params |= _parameter(command, params)
    return _Told(file, texts.get(TEMPLATE), texts.get(SYSTEM) or None, params, others)


def _parameter(command: grammar.Command, before: Mapping[str, Json]) -> dict[str, Json]:
    """A PARAMETER as `params` holds it: `stop` as a list, all others as the JSON that they look like."""
    if command.name == _STOP:
        stops = before.get(_STOP)
        return {_STOP: [*(stops if isinstance(stops, list) else []), command.args]}
    try:
        value: Json = json.loads(command.args)
    except ValueError:
        value = command.args
    return {command.name: value if isinstance(value, (bool, int, float)) else command.args}


def _disagreement(told: Sequence[_Told]) -> str | None:
    """In what two Modelfiles differ, which one repository cannot both follow."""
    first = told[0]
    templates = [t for t in told if t.template is not None]
    for other in templates[1:]:
        if other.template != templates[0].template:
            return _differ("TEMPLATE", templates[0], other)
    for other in told[1:]:
        if other.system != first.system:
            return _differ("SYSTEM", first, other)
        for name in {**first.params, **other.params}:
            if first.params.get(name) != other.params.get(name):
                values = [json.dumps(t.params.get(name), ensure_ascii=False) for t in (first, other)]
                return _differ(f"PARAMETER {name} ({' and '.join(values)})", first, other)
    return None


def _differ(what: str, one: _Told, other: _Told) -> str:
    return (
        f"{one.path.name} and {other.path.name} differ in {what}, and a repository has one for all files: "
        "make them agree, or leave one's file out with --exclude"
    )


def _other_chats(ggufs: Sequence[Path]) -> str | None:
    """Which files have chat templates or tokens of their own, so that no one template is for all."""
    first, *others = (read_header(file) for file in ggufs)
    keys = ("chat_template", "ggml.bos_token_id", "ggml.eos_token_id", "ggml.add_bos_token")
    for other in others:
        if any(first.metadata.get(f"tokenizer.{k}") != other.metadata.get(f"tokenizer.{k}") for k in keys):
            return f"{first.path.name} and {other.path.name} have different chat templates"
    return None


def _as_made(file: Path, gguf: Path) -> ModelfileNotes | None:
    """What is noted of a Modelfile that is as it was made, with a proven Go template, for the very GGUF that is there."""
    made = read_manifest(file)
    if made is None or was_changed(file) or made.inputs.get("gguf") != gguf_sha256(gguf):
        return None
    notes = ModelfileNotes.from_manifest(made)
    return notes if notes.kind == GO else None


def _template(told: _Told, gguf: Path, reporter: Reporter) -> _Template:
    """A Modelfile's template if it is proven, a proven one for Go where it has none."""
    if read_header(gguf).metadata.get("tokenizer.chat_template") is None:
        if told.template in (None, COMPLETION):
            return _Template(told.template)
        reason = f"that of {told.path.name} cannot be proven, as {gguf.name} has no chat template"
        return _Template(unproven=reason)
    noted = _as_made(told.path, gguf)
    if noted is not None and told.template is not None:
        return _Template(told.template, noted.why, noted.prompt)
    try:
        with reporter.step("Proving the chat template"):
            made = make_modelfile(
                gguf, f"./{whole_of(gguf).name}", ModelfileOptions(kind=GO, template=told.template), None
            )
    except GgufkitError as error:
        reason = f"that of {told.path.name} is not proven" if told.template else "there is no proven one for Go"
        return _Template(unproven=f"{reason}: {error.message.splitlines()[0].rstrip('.:')}")
    stops = () if told.template else tuple(str(v) for name, v in made.modelfile.parameters if name == _STOP)
    return _Template(made.modelfile.template, made.why, made.prompt, stops)


def _json(params: Mapping[str, Json], stops: Sequence[str]) -> str | None:
    """Parameters, with what ends an answer under a template that a Modelfile does without; None if there are none."""
    given = params.get(_STOP)
    own: list[Json] = given if isinstance(given, list) else []
    added = [stop for stop in stops if stop not in own]
    whole = {**params, _STOP: [*own, *added]} if added else params
    return json.dumps(whole, ensure_ascii=False, indent=2) + "\n" if whole else None
