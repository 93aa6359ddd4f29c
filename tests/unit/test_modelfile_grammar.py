"""Modelfiles read back as they were written, whatever is in them."""

from __future__ import annotations

import contextlib
import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ggufkit.modelfile import Command, Modelfile, ModelfileError, parse, write

HOSTILE = [
    'x"""\nSYSTEM injected\n"""',
    '"""\nFROM /etc/passwd\n',
    '"\nSYSTEM injected',
    "\nSYSTEM injected",
    "# comment",
    '"""',
    '""""',
    'ends with a quote"',
    '"starts with one',
    "\r\nSYSTEM injected\r\n",
    'line"\r\nSYSTEM x',
    "\u2028SYSTEM injected",
    "\x00\x1b[0m",
    " \t blank ends \t ",
    "",
    "@FROM x",
]


def texts(commands: list[Command]) -> dict[str, str]:
    return {c.name: c.args for c in commands}


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("field", ["base", "template", "system", "license"])
def test_nothing_breaks_out_of_its_quotes(field: str, text: str) -> None:
    modelfile = replace(Modelfile("./m.gguf"), **{field: text})  # type: ignore[arg-type]
    try:
        written = write(modelfile)
    except ModelfileError:
        return
    assert parse(written) == modelfile.commands()


@given(st.text(max_size=80), st.text(max_size=40), st.text(max_size=20))
def test_any_value_reads_back_or_is_refused(template: str, system: str, stop: str) -> None:
    modelfile = Modelfile(
        "./m.gguf", template, system, (("stop", stop), ("top_k", 40)), comments=(system, template)
    )
    try:
        written = write(modelfile)
    except ModelfileError:
        return
    assert parse(written) == modelfile.commands()
    assert [c.name for c in parse(written)] == ["model", "stop", "top_k", "template", "system"]


@given(
    st.lists(st.sampled_from(['"""', '"', "\n", "\r", " ", "x", "SYSTEM y", "#", "\t"]), max_size=12).map("".join)
)
def test_quotes_and_line_breaks_in_every_order(text: str) -> None:
    try:
        written = write(Modelfile("./m.gguf", template=text))
    except ModelfileError:
        return
    assert texts(parse(written))["template"] == text


@pytest.mark.parametrize(
    "text", ["\nSYSTEM injected", "# comment", '"""', 'ends with a quote"', "@FROM x", 'a"\nb']
)
def test_what_can_be_quoted_is_not_refused(text: str) -> None:
    assert texts(parse(write(Modelfile("./m.gguf", system=text))))["system"] == text


def test_ordinary_texts_are_never_refused() -> None:
    template = '{{ range .Messages }}{{ if eq .Role "user" }}"""{{ end }}\n'.replace('"""', "''")
    written = write(
        Modelfile("./my model.gguf", template, 'Say "hi".\n', (("stop", "<|im_end|>"), ("temperature", 0.7)))
    )
    assert written.splitlines()[:3] == [
        'FROM "./my model.gguf"',
        'PARAMETER stop "<|im_end|>"',
        "PARAMETER temperature 0.7",
    ]


def test_comments_stay_on_their_line() -> None:
    written = write(Modelfile("./m.gguf", comments=("one\nSYSTEM two\r\nFROM three\u2028x\x00",)))
    assert written.splitlines()[0] == "# one SYSTEM two FROM three x"
    assert len(parse(written)) == 1


def test_numbers_are_written_short() -> None:
    parameters = (("temperature", 0.699999988079071), ("top_k", 40), ("min_p", 0.0), ("repeat_penalty", 1.05))
    commands = Modelfile("./m.gguf", parameters=parameters).commands()
    assert [c.args for c in commands[1:]] == ["0.7", "40", "0", "1.05"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("from x", [Command("model", "x")]),
        ("\ufeffFROM x", [Command("model", "x")]),
        ("# c\n\n  FROM\tx y  \n", [Command("model", "x y")]),
        ('FROM x\nPARAMETER stop "a b"', [Command("model", "x"), Command("stop", "a b")]),
        ('FROM x\nSYSTEM """\na "b"\n"""\n', [Command("model", "x"), Command("system", '\na "b"\n')]),
        ('FROM x\nSYSTEM "a\nb"', [Command("model", "x"), Command("system", "a\nb")]),
        ("FROM x\nMESSAGE user hi: there", [Command("model", "x"), Command("message", "user: hi: there")]),
        ("FROM x\nSYSTEM a\x00b\u200bc", [Command("model", "x"), Command("system", "abc")]),
    ],
)
def test_parsing_as_ollama_does(text: str, expected: list[Command]) -> None:
    assert parse(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# only a comment",
        "SYSTEM x",
        "FROM x\nHELLO y",
        'FROM x\nSYSTEM "open',
        "FROM",
        "FROM x\nMESSAGE tool y",
    ],
)
def test_what_ollama_refuses_is_refused(text: str) -> None:
    with pytest.raises(ModelfileError):
        parse(text)


@pytest.mark.parametrize(
    "value", ['"""' + 'a"\n' * 20_000, '"' + "a\n" * 20_000 + '"', '"""' + "\n" * 20_000 + '"""']
)
def test_a_long_value_is_read_in_one_pass(value: str) -> None:
    began = time.process_time()
    with contextlib.suppress(ModelfileError):
        parse(f"FROM x\nSYSTEM {value}")
    whole = time.process_time() - began
    began = time.process_time()
    with contextlib.suppress(ModelfileError):
        parse(f"FROM x\nSYSTEM {value[: len(value) // 2]}")
    assert whole < 3.5 * (time.process_time() - began) + 0.05
