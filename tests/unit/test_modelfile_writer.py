"""Modelfiles of a build: one proof for all, made beside other work, and a failure that is told once."""

from __future__ import annotations

from pathlib import Path

import pytest

from ggufkit.core.errors import InputError
from ggufkit.core.hashing import sha256_file
from ggufkit.core.progress import SilentReporter
from ggufkit.core.records import Toolchain
from ggufkit.modelfile.grammar import Modelfile
from ggufkit.modelfile.proven import ModelfileOptions, ProvenModelfile
from ggufkit.steps import modelfile
from ggufkit.steps.modelfile import Writer
from ggufkit.steps.session import Session
from ggufkit.steps.step import Made, Recipe, Result, Workspace, ensure
from tests.unit.test_gguf import write

TOOLS = Toolchain(Path("/nowhere"), "built", "commit", "cpu", "test")


class Listener(SilentReporter):
    def __init__(self) -> None:
        super().__init__()
        self.warned: list[str] = []

    def warn(self, text: str) -> None:
        self.warned.append(text)


@pytest.fixture
def proven(monkeypatch: pytest.MonkeyPatch, private_cache: Path) -> list[str]:
    """The files that a template was proven with."""
    files: list[str] = []

    def make(gguf: Path, base: str, _options: object, _tools: object) -> ProvenModelfile:
        files.append(gguf.name)
        return ProvenModelfile(Modelfile(base), "go", "proven")

    monkeypatch.setattr(modelfile, "make_modelfile", make)
    return files


def made(path: Path, kind: str, *, big: bool = False) -> Result:
    def create(partial: Path) -> Made:
        write(partial, {"general.name": "x" * 100 if big else "x"})
        return Made(notes={"variant": "plain", "type": kind})

    return ensure(Recipe("quantize", 1, {"base": kind}), path, create)


def test_what_was_proven_beside_other_work_serves_all_files(tmp_path: Path, proven: list[str]) -> None:
    base, other = made(tmp_path / "m-F16.gguf", "F16", big=True), made(tmp_path / "m-Q8_0.gguf", "Q8_0")
    writer = Writer(ModelfileOptions(), Session(TOOLS, Workspace(tmp_path)))
    writer.prove(base)
    written = writer.write_all([base, other])
    assert proven == ["m-F16.gguf"]
    assert [result.path.name for result in written] == ["Modelfile.F16", "Modelfile.Q8_0"]
    assert "FROM ./m-Q8_0.gguf" in written[1].path.read_text()
    assert sha256_file(written[1].path) == written[1].sha256


def test_another_file_that_is_the_largest_is_proven_itself(tmp_path: Path, proven: list[str]) -> None:
    base, wide = made(tmp_path / "m-F16.gguf", "F16"), made(tmp_path / "m-F32.gguf", "F32", big=True)
    writer = Writer(ModelfileOptions(), Session(TOOLS, Workspace(tmp_path)))
    writer.prove(base)
    writer.write_all([base, wide])
    assert proven == ["m-F16.gguf", "m-F32.gguf"]


@pytest.mark.parametrize("beside", [True, False])
def test_a_template_that_cannot_be_proven_is_tried_and_told_once(
    tmp_path: Path, proven: list[str], monkeypatch: pytest.MonkeyPatch, beside: bool
) -> None:
    def fail(gguf: Path, *_: object) -> ProvenModelfile:
        proven.append(gguf.name)
        raise InputError("The template has no end.")

    monkeypatch.setattr(modelfile, "make_modelfile", fail)
    reporter = Listener()
    writer = Writer(ModelfileOptions(), Session(TOOLS, Workspace(tmp_path), reporter))
    files = [made(tmp_path / "m-F16.gguf", "F16", big=True), made(tmp_path / "m-Q8_0.gguf", "Q8_0")]
    if beside:
        writer.prove(files[0])
    assert writer.write_all(files) == []
    assert proven == ["m-F16.gguf"]
    assert reporter.warned == ["No Modelfile: The template has no end. See `ggufkit modelfile m-F16.gguf`."]
