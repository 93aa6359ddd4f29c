"""What is on this disk is never asked of a hub, and is named as people name it."""

from __future__ import annotations

from pathlib import Path

import pytest

from ggufkit.core.errors import CheckpointError, GgufError, SourceError
from ggufkit.core.records import Checkpoint, GgufFile
from ggufkit.hub.listing import HubUnreachable, RepoAbsent
from ggufkit.models import sources
from tests import tiny
from tests.unit.test_gguf import write


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, private_cache: Path) -> None:
    """A working directory of the test's own, and no hub."""

    def ask(*_: object, **_more: object) -> None:
        raise AssertionError("a hub was asked")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sources, "obtain", ask)


def test_a_directory_without_a_configuration(tmp_path: Path) -> None:
    (tmp_path / "ck" / "nocfg").mkdir(parents=True)
    for name in ("ck/nocfg", "./ck/nocfg"):
        with pytest.raises(CheckpointError, match=r"ck/nocfg has no config\.json"):
            sources.resolve(name)


def test_a_gguf_of_any_name(tmp_path: Path) -> None:
    (tmp_path / "nm").mkdir()
    write(tmp_path / "x.gguf").rename(tmp_path / "nm" / "noext")
    found = sources.resolve("nm/noext")
    assert isinstance(found, GgufFile)
    assert sources.name_of(found.path) == "noext"
    assert sources.is_local("nm/noext")


def test_a_file_of_another_kind(tmp_path: Path) -> None:
    (tmp_path / "nm").mkdir()
    (tmp_path / "nm" / "model.safetensors").write_bytes(b"\0" * 99)
    with pytest.raises(SourceError, match="is a file, but no GGUF") as refused:
        sources.resolve("nm/model.safetensors")
    assert "directory" in str(refused.value.hint)
    (tmp_path / "nm" / "x.gguf").write_bytes(b"hello")
    with pytest.raises(GgufError):
        sources.resolve("nm/x.gguf")


@pytest.mark.parametrize(
    ("file", "inside", "name"),
    [
        ("model-F16.gguf", "x", "model"),
        ("model-v1.5-Q8_0", "x", "model-v1.5"),
        ("sha256-" + "a1" * 32, "Qwen2.5 0.5B/Instruct", "Qwen2.5-0.5B-Instruct"),
        ("a1" * 32, None, "a1" * 32),
    ],
)
def test_the_name_of_a_file(file: str, inside: str | None, name: str, tmp_path: Path) -> None:
    path = write(tmp_path / file, {"general.name": inside} if inside else None)
    assert sources.name_of(path) == name


@pytest.mark.parametrize("error", [RepoAbsent, HubUnreachable])
def test_what_no_hub_has_is_not_here_either(
    error: type[SourceError], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **_more: object) -> None:
        raise error("The hub says no.", hint="Try again.")

    (tmp_path / "ck").mkdir()
    monkeypatch.setattr(sources, "obtain", refuse)
    with pytest.raises(error, match=r"The hub says no\. Nor is there a local path ck/typo\.") as refused:
        sources.resolve("ck/typo")
    assert refused.value.hint == "Try again."
    with pytest.raises(error, match=r"(?m)says no\.$"):
        sources.resolve("acme/typo")


def test_a_checkpoint_here_is_no_alias(tmp_path: Path) -> None:
    tiny.write_llama(tmp_path / "qwen2.5-0.5b")
    assert isinstance(sources.resolve("qwen2.5-0.5b"), Checkpoint)
    (tmp_path / "qwen2.5-0.5b" / "config.json").unlink()
    assert sources.local("qwen2.5-0.5b") is None


@pytest.mark.parametrize(
    ("directory", "name"),
    [
        (f"hub/models--acme--Tiny-0.5B/snapshots/{'c' * 40}", "Tiny-0.5B"),
        ("models/acme--Tiny-0.5B/snapshots/master", "Tiny-0.5B"),
        ("models/acme/Tiny-0___5B", "Tiny-0.5B"),
        ("mine/snapshots/last", "last"),
        ("mine/a___b", "a___b"),
    ],
)
def test_a_snapshot_of_a_cache_has_the_name_of_its_model(directory: str, name: str, tmp_path: Path) -> None:
    (tmp_path / directory).parent.mkdir(parents=True)
    tiny.write_llama(tmp_path / directory)
    (tmp_path / "link").symlink_to(tmp_path / directory)
    for given in (directory, "./link"):
        found = sources.resolve(given)
        assert isinstance(found, Checkpoint)
        assert found.name == name
