"""Templates and Modelfiles."""

from __future__ import annotations

from benchmarks.fuzzing.reader import ROOT, Reader, of_text
from ggufkit.modelfile import gotemplate, grammar
from ggufkit.modelfile.metadata import ChatMeta
from ggufkit.modelfile.reference import Reference

_GO = [
    b"{{- if .System }}<|im_start|>system\n{{ .System }}<|im_end|>\n{{ end }}"
    b"{{ range $i, $_ := .Messages }}{{ .Content }}{{ end }}",
    b'{{ define "a" }}{{ template "b" (slice . 1 2) }}{{ end }}{{ $x := `raw` }}'
    b'{{ if and (eq .Role "user") .Tools }}x{{ else if not $x }}y{{ end }}',
]
_MODELFILE = b"""# a
FROM ./a.gguf
TEMPLATE \"\"\"{{ .Prompt }}\"\"\"
PARAMETER stop "<|im_end|>"
PARAMETER temperature 0.7
SYSTEM "x"
"""


def readers() -> list[Reader]:
    """Go's, Jinja's, and what Ollama reads."""
    jinja = [file.read_bytes() for file in sorted((ROOT / "tests" / "templates").glob("*.jinja"))]
    return [
        Reader("go template", _GO, of_text(_parsed), weight=4),
        Reader("chat template", jinja, of_text(_chat), weight=0.5),
        Reader("Modelfile", [_MODELFILE], of_text(grammar.parse), weight=2),
    ]


def _chat(template: str) -> None:
    Reference(ChatMeta("m", "llama", template or None, "<s>", "</s>"))


def _parsed(text: str) -> None:
    assert isinstance(gotemplate.parse(text).uses_messages, bool)
