"""Ollama Modelfiles whose template is proven: the same prompts as the model's own chat template, or none at all.

`make` is the way in: from what a GGUF says (`metadata`) to a Modelfile (`grammar`, `parameters`), whose template is

- learned, not translated (`jinja_to_go`): the model's own template (`reference`) is asked `questions`, its prompts are
  cut into messages (`observe`, `placeholders`), which become samples (`features`) and rules (`learn`, `trees`), and
  those a Go template (`emit`, `snippets`);
- proven (`prove`): for many `random_conversations`, Ollama's side (`ollama_prompt`, `gorender`, `gotemplate`) must
  write what `reference` writes. A Modelfile without template is proven with llama.cpp's engine (`native`).

`install` hands it to Ollama.
"""

from ggufkit.modelfile.grammar import Command, Modelfile, ModelfileError, parse, write
from ggufkit.modelfile.jinja_to_go import LearnedTemplate, to_go_template
from ggufkit.modelfile.make import ModelfileRequest, ModelfileResult, make
from ggufkit.modelfile.metadata import ChatMeta, read_meta
from ggufkit.modelfile.native import prove_native, renderer
from ggufkit.modelfile.parameters import context_length, stop_strings
from ggufkit.modelfile.placeholders import UnlearnableTemplate
from ggufkit.modelfile.prove import Proof, UnprovenTemplate, Vocabulary, prove
from ggufkit.modelfile.reference import ChatTemplateError

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
    "make",
    "parse",
    "prove",
    "prove_native",
    "read_meta",
    "renderer",
    "stop_strings",
    "to_go_template",
    "write",
]
