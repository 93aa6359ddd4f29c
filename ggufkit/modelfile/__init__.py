"""Ollama Modelfiles whose template is proven: the same prompts as the model's own chat template, or none at all.

`make` is the way in. A Go template is not translated from the Jinja source but learned from what that writes
(`learn`), written out (`emit`) and compared with it (`prove`).
"""

from ggufkit.modelfile.grammar import Command, Modelfile, ModelfileError, parse, write
from ggufkit.modelfile.jinja_to_go import Converted, convert
from ggufkit.modelfile.make import Made, Request, make
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
    "Converted",
    "Made",
    "Modelfile",
    "ModelfileError",
    "Proof",
    "Request",
    "UnlearnableTemplate",
    "UnprovenTemplate",
    "Vocabulary",
    "context_length",
    "convert",
    "make",
    "parse",
    "prove",
    "prove_native",
    "read_meta",
    "renderer",
    "stop_strings",
    "write",
]
