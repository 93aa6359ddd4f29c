"""Ollama Modelfiles whose template is proven: the same prompts as the model's own chat template, or none at all.

`proven` is the way in, and has `make` do the work in a process of its own (`proving`): from what a GGUF says (`metadata`)
to a Modelfile (`grammar`, `parameters`), whose template is

- learned, not translated (`jinja_to_go`): the model's own template (`reference`) is asked `questions`, its prompts are
  cut into messages (`observe`, `placeholders`), which become samples (`features`) and rules (`learn`, `trees`), and
  those a Go template (`emit`, `snippets`);
- proven (`prove`): for many `random_conversations`, Ollama's side (`ollama_prompt`, `gorender`, `gotemplate`) must
  write what `reference` writes. A Modelfile without template is proven with llama.cpp's engine (`native`).

`install` hands it to Ollama.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__all__ = [
    "ChatMeta",
    "ChatTemplateError",
    "Command",
    "LearnedTemplate",
    "Modelfile",
    "ModelfileError",
    "ModelfileRequest",
    "ModelfileResult",
    "Proof",
    "UnlearnableTemplate",
    "UnprovenTemplate",
    "Vocabulary",
    "context_length",
    "parse",
    "prove_native",
    "read_meta",
    "renderer",
    "stop_strings",
    "to_go_template",
    "write",
]

if TYPE_CHECKING:
    from ggufkit.modelfile.grammar import Command, Modelfile, ModelfileError, parse, write
    from ggufkit.modelfile.jinja_to_go import LearnedTemplate, to_go_template
    from ggufkit.modelfile.make import ModelfileRequest, ModelfileResult
    from ggufkit.modelfile.metadata import ChatMeta, read_meta
    from ggufkit.modelfile.native import prove_native, renderer
    from ggufkit.modelfile.parameters import context_length, stop_strings
    from ggufkit.modelfile.placeholders import UnlearnableTemplate
    from ggufkit.modelfile.prove import Proof, UnprovenTemplate, Vocabulary
    from ggufkit.modelfile.reference import ChatTemplateError

_HOMES = {
    "Command": "grammar",
    "Modelfile": "grammar",
    "ModelfileError": "grammar",
    "parse": "grammar",
    "write": "grammar",
    "LearnedTemplate": "jinja_to_go",
    "to_go_template": "jinja_to_go",
    "ModelfileRequest": "make",
    "ModelfileResult": "make",
    "ChatMeta": "metadata",
    "read_meta": "metadata",
    "prove_native": "native",
    "renderer": "native",
    "context_length": "parameters",
    "stop_strings": "parameters",
    "UnlearnableTemplate": "placeholders",
    "Proof": "prove",
    "UnprovenTemplate": "prove",
    "Vocabulary": "prove",
    "ChatTemplateError": "reference",
}


def __getattr__(name: str) -> Any:
    """Import a name's module on first use: most commands need none, and a template is learned in a process of its own."""
    if name not in _HOMES:
        raise AttributeError(f"module 'ggufkit.modelfile' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
