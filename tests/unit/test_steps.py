"""Freshness by recipe, atomic publication, and the lock of an output directory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest

from ggufkit.core import machine
from ggufkit.core.errors import BusyError, InputError, ResourceError, ToolError
from ggufkit.core.hashing import sha256_file
from ggufkit.core.manifest import manifest_path, read_manifest
from ggufkit.core.progress import Progress, SilentReporter
from ggufkit.core.records import Toolchain
from ggufkit.steps.session import Session
from ggufkit.steps.step import Made, Recipe, Workspace, ensure, staleness, was_changed

RECIPE = Recipe("quantize", 1, {"base": "aa"}, {"type": "Q4_0"}, "commit1")


@pytest.fixture(autouse=True)
def _cache(private_cache: Path) -> None:
    """Hashes are remembered in the test's own cache."""


def write_text(text: str):  # type: ignore[no-untyped-def]
    def make(partial: Path) -> Made:
        partial.write_text(text)
        return Made(notes={"n": 1})

    return make


def test_an_artefact_is_made_once(tmp_path: Path) -> None:
    output = tmp_path / "a.gguf"
    first = ensure(RECIPE, output, write_text("one"))
    second = ensure(RECIPE, output, write_text("two"))
    assert (first.fresh, second.fresh) == (False, True)
    assert output.read_text() == "one"
    assert second.sha256 == first.sha256 == read_manifest(output).output["sha256"]  # type: ignore[union-attr]
    assert not list(tmp_path.glob("*.partial"))


def test_a_tool_that_failed_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not every tool says that it was the disk."""

    def fail(_partial: Path) -> Made:
        raise ToolError("llama-quantize failed: failed to quantize model")

    with pytest.raises(ToolError):
        ensure(RECIPE, tmp_path / "a.gguf", fail)
    monkeypatch.setattr(machine, "free_disk", lambda _: 1_600_000)
    with pytest.raises(ResourceError, match=r"1\.53 MiB are free .* failed to quantize model"):
        ensure(RECIPE, tmp_path / "a.gguf", fail)


def test_what_was_changed_by_somebody_else(tmp_path: Path) -> None:
    output = tmp_path / "Modelfile.Q8_0"
    assert not was_changed(output)
    ensure(RECIPE, output, write_text("FROM x"))
    assert not was_changed(output)
    output.write_text("FROM x\nPARAMETER num_ctx 99")
    assert was_changed(output)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        (replace(RECIPE, version=2), "made by quantize version 1, now quantize version 2"),
        (replace(RECIPE, step="refine"), "made by quantize version 1, now refine"),
        (replace(RECIPE, inputs={"base": "bb"}), "input base changed"),
        (replace(RECIPE, inputs={"base": "aa", "imatrix": "cc"}), "input imatrix changed"),
        (replace(RECIPE, params={"type": "Q8_0"}), "parameter type was Q4_0, now Q8_0"),
        (replace(RECIPE, toolchain="commit2"), "made with llama.cpp commit1, now commit2"),
    ],
)
def test_any_change_of_the_recipe_makes_it_stale(tmp_path: Path, changed: Recipe, reason: str) -> None:
    output = tmp_path / "a.gguf"
    ensure(RECIPE, output, write_text("one"))
    assert staleness(RECIPE, output) is None
    assert reason in str(staleness(changed, output))
    assert not ensure(changed, output, write_text("two")).fresh
    assert output.read_text() == "two"


def test_a_changed_file_is_made_again(tmp_path: Path) -> None:
    output = tmp_path / "a.gguf"
    ensure(RECIPE, output, write_text("one"))
    output.write_text("eno")
    assert staleness(RECIPE, output) == "the file was changed since it was made"


@pytest.mark.parametrize("content", ["", "[]", '{"schema": 99}', '{"schema": 1}', "null"])
def test_an_unreadable_manifest_is_no_manifest(tmp_path: Path, content: str) -> None:
    output = tmp_path / "a.gguf"
    ensure(RECIPE, output, write_text("one"))
    manifest_path(output).write_text(content)
    assert staleness(RECIPE, output) == "its manifest is missing or unreadable"


def test_force_and_explain(tmp_path: Path) -> None:
    class Listener(SilentReporter):
        said: list[str] = []  # noqa: RUF012 - the test's only one

        def info(self, text: str) -> None:
            self.said.append(text)

    listener, output = Listener(), tmp_path / "a.gguf"
    for force in (False, False, True):
        ensure(RECIPE, output, write_text("one"), force=force, explain=listener)
    assert listener.said == [
        "a.gguf: made, there is no result yet",
        "a.gguf: skipped, nothing changed",
        "a.gguf: made, asked for by --force",
    ]


def test_a_session_knows_whether_to_force_and_explain(tmp_path: Path) -> None:
    class Listener(SilentReporter):
        def info(self, text: str) -> None:
            self.warnings.append(text)

    listener, output = Listener(), tmp_path / "a.gguf"
    quiet = Session(Toolchain(tmp_path, "built", "commit1", "cpu", "1"), Workspace(tmp_path), listener)
    told = replace(quiet, explain=True)
    quiet.ensure(RECIPE, output, write_text("one"))
    told.ensure(RECIPE, output, write_text("two"))
    told.ensure(RECIPE, output, write_text("three"), force=True, why="measured along")
    replace(told, force=True).ensure(RECIPE, output, write_text("four"))
    assert output.read_text() == "four"
    assert listener.warnings == [
        "a.gguf: skipped, nothing changed",
        "a.gguf: made, measured along",
        "a.gguf: made, asked for by --force",
    ]


def test_a_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    def fail(partial: Path) -> Made:
        partial.write_text("half")
        raise ToolError("it broke")

    with pytest.raises(ToolError):
        ensure(RECIPE, tmp_path / "a.gguf", fail)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_said_so(tmp_path: Path) -> None:
    def fill(_partial: Path) -> Made:
        raise OSError(28, "No space left on device")

    with pytest.raises(ResourceError, match="No space left"):
        ensure(RECIPE, tmp_path / "a.gguf", fill)


def test_the_manifest_tells_how_it_was_made(tmp_path: Path) -> None:
    ensure(RECIPE, tmp_path / "a.gguf", write_text("one"))
    data = json.loads(manifest_path(tmp_path / "a.gguf").read_text())
    assert data["inputs"] == {"base": "aa"}
    assert data["output"]["size_bytes"] == 3
    assert data["toolchain"] == "commit1"
    assert data["duration_s"] >= 0


def test_one_command_at_a_time_and_leftovers_go(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    (tmp_path / "x.gguf.ggufkit.partial").write_text("half")
    (tmp_path / "download.gguf.partial").write_text("the user's own")
    workspace.scratch.mkdir(parents=True)
    (workspace.scratch / "logits").write_text("big")
    with workspace.locked():
        assert not (tmp_path / "x.gguf.ggufkit.partial").exists()
        assert (tmp_path / "download.gguf.partial").exists()
        assert not (workspace.scratch / "logits").exists()
        with pytest.raises(BusyError, match="Another ggufkit is working in"), Workspace(tmp_path).locked():
            pass
    with workspace.locked():
        pass


def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"), Workspace(tmp_path / "file" / "out").locked():
        pass


def test_hashing_a_long_file_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Watching(SilentReporter):
        seen: ClassVar[list[str]] = []

        @contextmanager
        def step(self, title: str, total: float | None = None) -> Iterator[Progress]:
            self.seen.append(title)
            with super().step(title, total) as progress:
                yield progress

    monkeypatch.setattr("ggufkit.core.hashing._LONG", 100)
    monkeypatch.setattr("ggufkit.core.hashing._SMALL", 100)
    small, large = tmp_path / "small", tmp_path / "large"
    small.write_bytes(b"x" * 99)
    large.write_bytes(b"x" * 100)
    for file in (small, large, large):
        assert len(sha256_file(file, Watching())) == 64
    assert Watching.seen == ["Reading large"]


def test_what_was_not_made_here_is_not_overwritten(tmp_path: Path) -> None:
    own = tmp_path / "a.gguf"
    own.write_text("the user's own")
    with pytest.raises(InputError, match="did not make it") as refused:
        ensure(RECIPE, own, write_text("one"))
    assert "--force" in str(refused.value.hint)
    assert own.read_text() == "the user's own"
    ensure(RECIPE, own, write_text("one"), force=True)
    assert own.read_text() == "one"

    directory = tmp_path / "b"
    directory.mkdir()
    ensure(RECIPE, directory, write_text("into an empty place"))
    thesis = tmp_path / "c" / "thesis.txt"
    thesis.parent.mkdir()
    thesis.write_text("years of work")
    for force in (False, True):
        with pytest.raises(InputError, match="other files"):
            ensure(RECIPE, thesis.parent, write_text("one"), force=force)
    assert thesis.read_text() == "years of work"


def test_killed_between_manifest_and_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "a.gguf"

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    for content in ("one", "two"):
        recipe = replace(RECIPE, params={"type": content})
        with monkeypatch.context() as patch:
            patch.setattr("ggufkit.steps.step._publish", killed)
            with pytest.raises(KeyboardInterrupt):
                ensure(recipe, output, write_text(content))
        assert not ensure(recipe, output, write_text(content)).fresh
        assert output.read_text() == content
        assert ensure(recipe, output, write_text("never")).fresh
