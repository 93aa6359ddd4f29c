"""What a file's name, its metadata or a hub's name holds is shown, and does nothing: through the whole command line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.integration.run_cli import ggufkit
from tests.integration.test_hostile_templates import write

NAME = "x\x1b[2J\nError: no [bold]b\u202e"
SHOWN = r"x\x1b[2J\nError: no [bold]b\u202e"


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A GGUF with such a name, whose `general.name` is of the kind, too."""
    return write(tmp_path / f"{NAME}.gguf", "{{ messages[0].content }}")


@pytest.mark.parametrize("more", [[], ["--json"]])
def test_inspect(hostile: Path, more: list[str]) -> None:
    ended = ggufkit("inspect", hostile, *more)
    assert ended.code == 0, ended.err
    assert "\x1b" not in ended.out + ended.err
    assert not [line for line in ended.out.splitlines() if line.startswith("Error")]
    if not more:
        assert "Some\\x1b[2J Model" in ended.out
        assert f"{SHOWN}.gguf" in ended.out


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (("inspect", NAME), 3),
        (("convert", NAME), 3),
        (("build", f"acme/{NAME}"), 3),
        (("build", "x", "--types", NAME), 3),
        ((NAME,), 2),
        (("inspect", f"--{NAME}"), 2),
    ],
)
def test_what_was_typed(command: tuple[str, ...], code: int, tmp_path: Path) -> None:
    ended = ggufkit(*command, env={**os.environ, "HF_HUB_OFFLINE": "1", "GGUFKIT_CACHE": str(tmp_path)})
    assert ended.code == code, ended.err
    assert "\x1b" not in ended.err
    assert "\u202e" not in ended.err
    assert sum(line.startswith("Error: ") for line in ended.err.splitlines()) == 1
