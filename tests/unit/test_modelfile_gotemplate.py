"""The renderer of Go templates: what it does as Go does, and what it refuses."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any

import pytest

from ggufkit.modelfile.gorender import Struct, go_value, render
from ggufkit.modelfile.gotemplate import GoTemplateError, parse


def run(source: str, **data: Any) -> str:
    """Render with values given as Python has them."""
    values = {key: value if isinstance(value, Struct) else go_value(value) for key, value in data.items()}
    return render(parse(source), values, {"currentDate": lambda: b"2026-03-05"})


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("plain }} text", "plain }} text"),
        ("a {{- 1 -}} b", "a1b"),
        ('a\n\n{{- "x" }} \n', "ax \n"),
        ('{{ "\\x41\\u00e9\\n\\"" }}', 'Aé\n"'),
        ("{{ `raw \\n` }}", "raw \\n"),
        ('{{ "}}" }}', "}}"),
        ("{{ if .A }}yes{{ else }}no{{ end }}", "yes"),
        ('{{ if not .A }}yes{{ else if eq .A "x" }}x{{ else }}no{{ end }}', "x"),
        ('{{ if eq .A "y" "x" }}one of{{ end }}', "one of"),
        ("{{ $v := 1 }}{{ if .A }}{{ $v = 2 }}{{ $v := 3 }}{{ end }}{{ $v }}", "2"),
        ("{{ range $i, $_ := .L }}{{ if $i }}, {{ end }}{{ . }}{{ end }}", "p, q"),
        ("{{ range .M }}{{ . }}{{ end }}", "12"),
        ("{{ range $k, $v := .M }}{{ $k }}={{ $v }};{{ end }}", "a=1;b=2;"),
        ("{{ (index .L 1) }}{{ len .L }}{{ slice .A 0 1 }}", "q2x"),
        ("{{ len .E }}", "2"),
        ('{{ printf "%s-%s" .A .A }}', "x-x"),
        ('{{ printf "%T %T %T" .A .L .M }}', "string []interface {} map[string]interface {}"),
        ("{{ json .N }} {{ json .F }} {{ json .T }} {{ json .Z }}", "3 2.5 true null"),
        ("{{ slice (currentDate) 0 4 }}", "2026"),
        ('{{ define "d" }}<{{ . }}>{{ end }}{{ template "d" .A }}', "<x>"),
        ("{{ .Missing }}", "<no value>"),
        ("{{ if and .A .Missing }}a{{ end }}{{ if or .Missing .A }}b{{ end }}", "b"),
        ("{{ range .Missing }}never{{ end }}", ""),
    ],
)
def test_it_renders_as_go_does(source: str, expected: str) -> None:
    assert run(source, A="x", L=["p", "q"], M={"b": "2", "a": "1"}, E="é", N=3, F=2.5, T=True, Z=None) == expected


@pytest.mark.parametrize(
    "source",
    [
        "{{ if .A }}",
        "{{ end }}",
        "{{ else }}",
        "{{ .A | len }}",
        "{{ with .A }}{{ end }}",
        '{{ block "x" . }}{{ end }}',
        "{{ unknown .A }}",
        "{{ .A",
        "{{ (len .A }}",
        '{{ "open }}',
        "{{ $nowhere }}",
        "{{ $nowhere = 1 }}",
        '{{ template "nowhere" . }}',
        "{{ index .A 9 }}",
        "{{ slice .A 2 1 }}",
        "{{ slice .A 0 9 }}",
        "{{ eq .A 1 }}",
        "{{ .S.Nothing }}",
        "{{ .A.Field }}",
        '{{ define "loop" }}{{ template "loop" . }}{{ end }}{{ template "loop" . }}',
    ],
)
def test_what_go_or_the_subset_refuses_is_an_error(source: str) -> None:
    with pytest.raises(GoTemplateError):
        run(source, A="xyz", S=Struct({"Some": b"thing"}))


def test_recursion_goes_deeper_than_pythons_stack() -> None:
    source = '{{ define "eat" }}{{ if . }}{{ template "eat" (slice . 1) }}{{ else }}done{{ end }}{{ end }}'
    assert run(source + '{{ template "eat" .A }}', A="x" * 20_000) == "done"


LONG: dict[str, Callable[[int], str]] = {
    "backquotes": lambda n: "{{ " + "`" * n,
    "raw strings": lambda n: "{{ " + "`a" * n + " x",
    "odd backquotes": lambda n: "{{ " + "`" * (n | 1) + "}}",
    "quotes": lambda n: "{{ " + '"' * n,
    "escapes": lambda n: '{{ "' + '\\"' * n,
    "both": lambda n: "{{ " + '"`' * n,
    "braces": lambda n: "{{ " * n,
    "blanks": lambda n: " " * n + "{{- x" + " " * n + "-",
    "arguments": lambda n: "{{ f " + "x " * n + "}}",
    "fields": lambda n: "{{ (x)" + ".a" * n + "!",
    "actions": lambda n: "{{ x }}" * n,
}


@pytest.mark.parametrize("kind", LONG)
def test_time_grows_with_the_length(kind: str) -> None:
    def seconds(n: int) -> float:
        taken = []
        for _ in range(3):
            began = time.process_time()
            with contextlib.suppress(GoTemplateError):
                parse(LONG[kind](n))
            taken.append(time.process_time() - began)
        return min(taken)

    assert seconds(20_000) < 3.5 * seconds(10_000) + 0.02
