"""What a step reads is what was hashed, whoever writes to it meanwhile."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ggufkit.core import hashing
from ggufkit.core.errors import CorpusError, GgufkitError, InputError, Interrupted, ToolError
from ggufkit.core.hashing import sha256_file, sha256_files
from ggufkit.core.inputs import Input, unchanged
from ggufkit.steps.step import Made, Recipe, ensure

LARGE = hashing._SMALL


@pytest.fixture(autouse=True)
def _cache(private_cache: Path) -> None:
    """Hashes are remembered in the test's own cache."""


@pytest.fixture(params=["small", "large"])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Small files are read each time, large ones are remembered."""
    path = tmp_path / "input.bin"
    path.write_bytes(b"old\n" * (LARGE // 4 if request.param == "large" else 4))
    return path


def other_content(path: Path) -> None:
    """As many bytes, and the same modification time."""
    stat = path.stat()
    path.write_bytes(path.read_bytes().replace(b"old", b"new"))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def replaced(path: Path) -> None:
    """Another file takes its name, with as many bytes and the same modification time."""
    other = path.with_name("other")
    other.write_bytes(path.read_bytes())
    os.utime(other, ns=(0, path.stat().st_mtime_ns))
    other_content(other)
    other.replace(path)


def put_back(path: Path) -> None:
    """Other content while the tool reads, and the old one again afterwards."""
    old = path.read_bytes()
    path.write_bytes(b"new!" + old[4:])
    os.utime(path, ns=(0, 0))
    path.write_bytes(old)


CHANGES: tuple[Callable[[Path], object], ...] = (
    other_content,
    replaced,
    put_back,
    lambda path: path.write_bytes(path.read_bytes() + b"more"),
    lambda path: os.truncate(path, 2),
    Path.unlink,
)


def links_come_and_go(path: Path) -> None:
    path.with_name("link").hardlink_to(path)
    path.chmod(0o600)


@pytest.mark.parametrize("change", [other_content, replaced])
def test_a_hash_is_of_what_is_there(file: Path, change: Callable[[Path], object]) -> None:
    before = sha256_file(file)
    change(file)
    assert sha256_file(file) != before


def test_what_did_not_change_is_not_read_again(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digest, large = sha256_file(file), file.stat().st_size >= LARGE
    monkeypatch.setattr(hashing, "_read_and_hash", lambda *_: "read")
    assert sha256_file(file) == (digest if large else "read")
    hashing._known.clear()
    assert sha256_file(file) == (digest if large else "read"), "another process has hashed it"


def test_a_cache_that_cannot_be_written_or_is_of_an_earlier_version(
    file: Path, private_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    private_cache.mkdir()
    with sqlite3.connect(private_cache / "hashes.sqlite") as earlier:
        earlier.execute("CREATE TABLE hashes (path TEXT PRIMARY KEY, size INTEGER, mtime INTEGER, sha256 TEXT)")
        stat = file.stat()
        earlier.execute(
            "INSERT INTO hashes VALUES (?, ?, ?, 'wrong')", (str(file), stat.st_size, stat.st_mtime_ns)
        )
    digest = sha256_file(file)
    assert len(digest) == 64
    monkeypatch.setenv("GGUFKIT_CACHE", "/dev/null/nowhere")
    assert sha256_file(file) == digest


@pytest.mark.parametrize("change", [other_content, replaced])
def test_a_result_of_the_same_size_and_time_is_made_again(file: Path, change: Callable[[Path], object]) -> None:
    content, recipe = file.read_bytes(), Recipe("quantize", 1)
    output = file.with_name("out.gguf")

    def make(partial: Path) -> Made:
        partial.write_bytes(content)
        return Made()

    ensure(recipe, output, make)
    assert ensure(recipe, output, make).fresh
    change(output)
    again = ensure(recipe, output, make)
    assert (again.fresh, again.reason) == (False, "the file was changed since it was made")
    assert output.read_bytes() == content


def test_what_was_published_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a file nor those of a directory, which had another path when they were hashed."""

    def make(partial: Path) -> Made:
        partial.mkdir()
        for name in ("a", "b"):
            (partial / name).write_bytes(name.encode() * LARGE)
        return Made()

    made = ensure(Recipe("awq", 1), tmp_path / "model-awq", make)
    monkeypatch.setattr(hashing, "_read_and_hash", lambda *_: pytest.fail("it was read again"))
    assert sha256_files(made.path, sorted(made.path.iterdir())) == made.sha256
    hashing._known.clear()
    assert ensure(Recipe("awq", 1), tmp_path / "model-awq", make).fresh


@pytest.mark.parametrize("change", CHANGES)
def test_an_input_that_changes_meanwhile_is_refused(
    file: Path, tmp_path: Path, change: Callable[[Path], object]
) -> None:
    read = Input(file, sha256_file(file))
    recipe, output = Recipe("perplexity", 1, {"corpus": read.sha256}, reads=(read,)), tmp_path / "out.json"

    def make(partial: Path) -> Made:
        change(file)
        partial.write_text(f"{file.exists()}")
        return Made()

    with pytest.raises(InputError, match=r"input\.bin changed while it was read") as refused:
        ensure(recipe, output, make)
    assert refused.value.exit_code == 3
    assert not list(tmp_path.glob("out*")), "nothing is published"


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_between_hash_and_tool(file: Path, change: Callable[[Path], object]) -> None:
    read = Input(file, sha256_file(file))
    change(file)
    if change is put_back:
        with unchanged([read]):
            return
    with pytest.raises(InputError, match="changed while"), unchanged([read]):
        pytest.fail("the tool ran")


def test_what_is_no_change(file: Path) -> None:
    with unchanged([Input(file, sha256_file(file))]) as require:
        links_come_and_go(file)
        require()


def test_what_was_another_file_for_a_while(file: Path) -> None:
    """Its content is back at the end; what the tool has read is not known."""

    def moved_away_and_back() -> None:
        own = file.rename(file.with_name("away"))
        file.write_bytes(b"another text")
        own.replace(file)

    with pytest.raises(InputError, match="changed while"), unchanged([Input(file, sha256_file(file))]):
        moved_away_and_back()


def test_a_tool_that_stumbled_over_a_change(file: Path) -> None:
    def run(change: Callable[[], None]) -> None:
        with unchanged([Input(file, sha256_file(file))]):
            change()
            raise error

    error: GgufkitError = ToolError("error loading model: tensor data is not within the file bounds")
    with pytest.raises(InputError, match="changed while"):
        run(lambda: os.truncate(file, 1))
    with pytest.raises(ToolError):
        run(lambda: None)
    error = CorpusError("The text has only one chunk.")
    with pytest.raises(InputError, match="changed while"):
        run(lambda: os.truncate(file, 0))
    error = Interrupted("Ctrl-C")
    with pytest.raises(Interrupted):
        run(lambda: os.truncate(file, 2))


@pytest.mark.parametrize("change", [other_content, replaced, Path.unlink])
def test_a_file_of_a_directory(tmp_path: Path, change: Callable[[Path], object]) -> None:
    parts = {name: tmp_path / "model" / name for name in ("config.json", "model.safetensors")}
    (tmp_path / "model").mkdir()
    for part in parts.values():
        part.write_bytes(b"old\n")

    def files(path: Path) -> list[Path]:
        return sorted(path.iterdir())

    read = Input(tmp_path / "model", sha256_files(tmp_path / "model", files(tmp_path / "model")), files)
    with unchanged([read]):
        pass
    with pytest.raises(InputError, match="model changed while"), unchanged([read]):
        change(parts["config.json"])
    with pytest.raises(InputError, match="model changed while"), unchanged([read]):
        pytest.fail("the tool ran")


def test_files_that_are_read_do_not_change_a_recipe(file: Path) -> None:
    """A checked release's manifests and unfinished work stay valid."""
    plain = Recipe("imatrix", 1, {"base": "aa"}, {"n_ctx": 512}, "commit1")
    reading = replace(plain, reads=(Input(file, "aa"),))
    assert reading.key == plain.key == "e663ca2586bd111a"
    assert reading == plain
