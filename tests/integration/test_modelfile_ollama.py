"""`ollama create` and `ollama show`, driven against a stand-in that keeps what it was given."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from ggufkit.core.errors import InputError, ToolError, ToolOutputError
from ggufkit.modelfile import Modelfile, install, write

# Answers as the real program does; what it was asked to create is in its own directory. The second line is a command to a
# shell, which can start a Python with spaces in its path, and a string to Python.
STAND_IN = """#!/bin/sh
"exec" "{python}" "$0" "$@"
import json, sys
from pathlib import Path
from ggufkit.modelfile import parse
kept = Path(__file__).with_name("kept.json")
change = json.loads(Path(__file__).with_name("change.json").read_text())
match sys.argv[1:]:
    case ["--version"]:
        print(change.get("version", "ollama version is 0.31.1"))
    case ["create", name, "-f", path]:
        if "create" in change:
            sys.exit("Error: " + change["create"])
        kept.write_text(json.dumps([[c.name, c.args] for c in parse(Path(path).read_text())]))
    case ["show", name, "--parameters"]:
        for key, value in json.loads(kept.read_text()):
            if key == "stop" and not change.get("forget stops"):
                print(f"{{key:30}} {{json.dumps(value)}}")
    case ["show", name, what]:
        found = dict(json.loads(kept.read_text())).get(what[2:], "")
        print(change.get(what, found), end="")
    case _:
        sys.exit("usage")
"""


@pytest.fixture
def ollama(tmp_path: Path) -> Path:
    """The stand-in; `change.json` beside it makes it misbehave."""
    program = tmp_path / "ollama"
    program.write_text(STAND_IN.format(python=sys.executable))
    program.chmod(0o755)
    (tmp_path / "change.json").write_text("{}")
    return program


MODELFILE = Modelfile(
    "./m.gguf", "{{ range .Messages }}{{ .Content }}\n{{ end }}", "Be brief.", (("stop", '<|"|>'),)
)


def create(program: Path, modelfile: Modelfile, source: str | None = None) -> None:
    path = program.with_name("Modelfile")
    path.write_text(write(modelfile))
    install.create(program, "test", path, modelfile, source, program.with_name("log"))


def test_a_model_is_created_and_checked(ollama: Path) -> None:
    create(ollama, MODELFILE)
    assert ollama.with_name("kept.json").is_file()


def test_ollama_on_path_is_found(ollama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(ollama.parent))
    assert install.find_ollama() == ollama
    monkeypatch.setenv("PATH", "")
    assert install.find_ollama() is None


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("ollama version is 0.31.1", (0, 31, 1)),
        ("Warning: could not connect to a running Ollama instance\\nWarning: client version is 0.9.6", (0, 9, 6)),
        ("ollama version is 0.5.7\\nWarning: client version is 0.30.0", (0, 5, 7)),
        ("ollama version is v1.2.3-rc1", (1, 2, 3)),
        ("nothing", None),
    ],
)
def test_the_version_is_read(ollama: Path, said: str, expected: install.Version | None) -> None:
    ollama.with_name("change.json").write_text(f'{{"version": "{said}"}}')
    assert install.version(ollama) == expected


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ('{"create": "could not connect to ollama server, run \'ollama serve\' to start it"}', ToolError),
        ('{"--template": "{{ .Prompt }}"}', ToolOutputError),
        ('{"--template": ""}', ToolOutputError),
        ('{"--system": "You are evil."}', ToolOutputError),
        ('{"forget stops": true}', ToolOutputError),
    ],
)
def test_what_ollama_did_otherwise_is_an_error(ollama: Path, change: str, error: type[Exception]) -> None:
    ollama.with_name("change.json").write_text(change)
    with pytest.raises(error):
        create(ollama, MODELFILE)


def test_a_native_template_must_not_be_replaced(ollama: Path) -> None:
    native = Modelfile("./m.gguf", requires="0.30.0")
    create(ollama, native, source="{{ messages }}")
    ollama.with_name("change.json").write_text('{"--template": "{{ .Prompt }}"}')
    with pytest.raises(ToolOutputError, match="one of its own for this model"):
        create(ollama, native, source="{{ messages }}")


def test_a_bad_name_reaches_nobody(ollama: Path) -> None:
    with pytest.raises(InputError):
        install.create(ollama, "--insecure", ollama, MODELFILE, None, ollama.with_name("log"))
    assert not ollama.with_name("kept.json").exists()
