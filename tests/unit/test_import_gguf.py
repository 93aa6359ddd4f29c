"""The user's own GGUF as a base: a file of its own, whatever becomes of the user's."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from ggufkit.core import machine
from ggufkit.core.errors import GgufError, InputError, ResourceError
from ggufkit.core.manifest import read_manifest
from ggufkit.core.records import GgufFile, Toolchain
from ggufkit.llama.gguf import read_gguf, read_header
from ggufkit.models.sources import open_gguf
from ggufkit.steps import import_gguf, quantize
from ggufkit.steps.session import Session
from ggufkit.steps.step import Workspace
from tests.unit.test_gguf import write


@pytest.fixture
def session(tmp_path: Path, private_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Session:
    """Without tools: whether a file computes is another test."""
    monkeypatch.setattr("ggufkit.steps.load_check.require_computes", lambda *_: None)
    work = Session(Toolchain(tmp_path, "built", "commit1", "cpu", "1"), Workspace(tmp_path / "out"))
    work.workspace.private.mkdir(parents=True)
    return work


@pytest.fixture
def own(tmp_path: Path, private_cache: Path) -> GgufFile:
    return open_gguf(write(tmp_path / "mine-F16.gguf"))


def test_what_happens_to_the_users_file_does_not_happen_to_the_base(own: GgufFile, session: Session) -> None:
    output = session.workspace.root / "m-F16.gguf"
    made = import_gguf.import_gguf(own, "m", output, session)
    assert not made.path.samefile(own.path)
    os.truncate(own.path, 100)
    assert read_gguf(output, made.sha256).n_params == own.n_params
    assert made.sha256 == own.sha256


def test_a_link_of_an_earlier_version_becomes_a_copy(own: GgufFile, session: Session) -> None:
    output = session.workspace.root / "m-F16.gguf"
    made = import_gguf.import_gguf(own, "m", output, session)
    output.unlink()
    output.hardlink_to(own.path)
    again = import_gguf.import_gguf(own, "m", output, session)
    assert (again.fresh, output.samefile(own.path), again.sha256) == (False, False, made.sha256)
    assert import_gguf.import_gguf(own, "m", output, session).fresh


def test_a_file_that_is_at_its_place_already(session: Session) -> None:
    """It is not copied: only its manifest is written."""
    output = write(session.workspace.root / "m-F16.gguf")
    inode = output.stat().st_ino
    made = import_gguf.import_gguf(open_gguf(output), "m", output, session)
    assert (output.stat().st_ino, read_manifest(output)) == (inode, made.manifest)
    assert not list(output.parent.glob("*.partial"))
    assert import_gguf.import_gguf(open_gguf(output), "m", output, session).fresh


@pytest.mark.skipif(sys.platform != "linux", reason="a call of Linux")
def test_a_file_system_that_lets_files_share_their_blocks(
    own: GgufFile, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    def share(copy: int, _request: int, original: int) -> None:
        os.sendfile(copy, original, 0, own.size_bytes)

    monkeypatch.setattr("fcntl.ioctl", share)
    monkeypatch.setattr(machine, "free_disk", lambda _: 0)
    assert import_gguf.can_clone(own, session)
    assert not list(session.workspace.private.iterdir())
    made = import_gguf.import_gguf(own, "m", session.workspace.root / "m-F16.gguf", session)
    assert (made.sha256, made.path.samefile(own.path)) == (own.sha256, False)


def test_no_room_for_a_copy(own: GgufFile, session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_gguf, "clone", lambda *_: False)
    monkeypatch.setattr(machine, "free_disk", lambda _: own.size_bytes - 1)
    output = session.workspace.root / "m-F16.gguf"
    with pytest.raises(ResourceError, match="are free at") as refused:
        import_gguf.import_gguf(own, "m", output, session)
    assert (refused.value.exit_code, "move the file there" in str(refused.value.hint)) == (6, True)
    assert not list(session.workspace.root.glob("m-*"))


def test_a_file_that_changes_while_it_is_copied(
    own: GgufFile, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    def copy(gguf: GgufFile, target: Path) -> bool:
        target.write_bytes(gguf.path.read_bytes())
        os.truncate(gguf.path, 100)
        return True

    monkeypatch.setattr(import_gguf, "clone", copy)
    output = session.workspace.root / "m-F16.gguf"
    with pytest.raises(InputError, match=r"mine-F16\.gguf changed while it was read"):
        import_gguf.import_gguf(own, "m", output, session)
    assert not list(session.workspace.root.glob("m-*"))


def test_a_copy_that_is_not_equal(own: GgufFile, session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_gguf, "clone", lambda *_: False)
    monkeypatch.setattr("ggufkit.steps.import_gguf.shutil.copyfile", lambda _, target: target.write_bytes(b"GGUF"))
    with pytest.raises(GgufError, match="is not equal to it"):
        import_gguf.import_gguf(own, "m", session.workspace.root / "m-F16.gguf", session)


def test_a_file_that_does_not_say_how_text_is_split(own: GgufFile) -> None:
    """As those of before May 2024: llama.cpp splits their text by a guess, and says so in its log only."""
    header, bpe = read_header(own.path), {"tokenizer.ggml.model": "gpt2"}
    quantize.require_base(replace(header, metadata=bpe | {"tokenizer.ggml.pre": "qwen2"}))
    quantize.require_base(replace(header, metadata={"tokenizer.ggml.model": "llama"}))
    with pytest.raises(
        GgufError, match=r"does not say how its text is split into tokens \(tokenizer\.ggml\.pre\)"
    ) as caught:
        quantize.require_base(replace(header, metadata=bpe))
    assert "--pre-tokenizer NAME" in str(caught.value.hint)
    assert caught.value.exit_code == 3
