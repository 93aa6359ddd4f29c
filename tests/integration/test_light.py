"""What starts from a GGUF works without any extra: with a Python that can import none of their modules."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from ggufkit import demo
from ggufkit.core import process
from ggufkit.core.extras import EXTRAS
from tests.integration.run_cli import fails, ggufkit

MODULES = sorted({module for extra in EXTRAS.values() for module in extra.modules} | {"accelerate"})
HELP = """
from ggufkit.cli import COMMANDS, _run
for command in COMMANDS:
    _run([command, "--help"], False)
"""


@pytest.fixture
def light(tmp_path: Path) -> dict[str, str]:
    """An environment whose Pythons, the children of a command too, find no module of an extra."""
    (tmp_path / "light").mkdir()
    block = f"import sys\nsys.modules.update(dict.fromkeys({MODULES}))\n"
    (tmp_path / "light" / "sitecustomize.py").write_text(block, encoding="utf-8")
    return {"PYTHONPATH": os.pathsep.join([str(tmp_path / "light"), str(Path(demo.__file__).parents[2])])}


def test_help_of_every_command(light: dict[str, str]) -> None:
    shown = process.run([sys.executable, "-c", HELP], surroundings=process.Surroundings(env=light))
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.count("Usage: ") == shown.stdout.count("--help") > 10


def test_from_a_gguf_to_a_report(base: Path, tmp_path: Path, light: dict[str, str]) -> None:
    text, out = demo.evaluation_text(), tmp_path / "out"
    measure = ("--corpus", text, "--chunks", 2)
    made = base.with_name("tiny-llama-Q8_0.gguf")
    for command in (
        ("imatrix", base, "--calibration", text, "--chunks", 2),
        ("quantize", base, "--types", "q8_0", "--imatrix", base.with_suffix(".imatrix")),
        ("perplexity", made.with_name("tiny-llama-imatrix-Q8_0.gguf"), "--base", base, *measure),
        ("build", base, "--types", "q8_0", "--out", out, "--no-bench", *measure),
        ("report", out),
        ("modelfile", out / made.name),
    ):
        ended = ggufkit(*command, env=light)
        assert ended.code == 0, ended.err
    assert (out / "report.html").is_file()


def test_a_checkpoint_that_is_converted_already(converted: Path, tmp_path: Path, light: dict[str, str]) -> None:
    out = shutil.copytree(converted.parent, tmp_path / "out")
    asked = ("build", out / "tiny-llama", "--out", out, "--types", "q8_0", "--no-eval", "--no-bench")
    ended = ggufkit(*asked, env=light)
    assert ended.code == 0, ended.err
    assert (out / "tiny-llama-Q8_0.gguf").is_file()
    assert "needs what is not installed: torch, " in fails(3, *asked, "--force", env=light)


def test_what_needs_more_says_so_at_once(checkpoint: Path, base: Path, light: dict[str, str]) -> None:
    for extra, command in (
        ("convert", ("build", checkpoint, "--no-eval")),
        ("awq", ("awq", checkpoint)),
        ("refine", ("refine", base, "--base", base, "--model", checkpoint)),
        ("lora", ("convert", checkpoint, "--lora", checkpoint)),
    ):
        told = fails(3, *command, env=light)
        assert "needs what is not installed: torch, " in told
        assert f"{extra}]'" in told or f"{extra}," in told
