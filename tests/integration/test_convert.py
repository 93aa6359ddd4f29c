"""A checkpoint is read while it is converted: what that finds ends the conversion."""

from __future__ import annotations

from pathlib import Path

import pytest

from ggufkit.core.errors import CheckpointError
from ggufkit.models.checkpoint import open_checkpoint
from ggufkit.models.files import fingerprint
from ggufkit.steps import convert
from ggufkit.steps.convert import ConvertOptions
from ggufkit.steps.session import Session


def test_the_manifest_names_what_was_converted(checkpoint: Path, session: Session) -> None:
    output = session.workspace.root / "model-F16.gguf"
    opened = open_checkpoint(checkpoint)
    made = convert.convert(opened, output, ConvertOptions(), session)
    assert made.manifest.inputs == {"checkpoint": fingerprint(checkpoint)}
    assert convert.convert(opened, output, ConvertOptions(), session).fresh
    (checkpoint / "generation_config.json").write_text("{}")
    again = convert.convert(opened, output, ConvertOptions(), session)
    assert (again.fresh, again.reason) == (False, "input checkpoint changed")


def test_a_checkpoint_that_changes_meanwhile_is_refused(
    checkpoint: Path, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    def edit(*arguments: object) -> str:
        (checkpoint / "config.json").write_text((checkpoint / "config.json").read_text() + "\n")
        return "0" * 64

    monkeypatch.setattr(convert, "fingerprint", edit)
    output = session.workspace.root / "model-F16.gguf"
    with pytest.raises(CheckpointError, match="changed while it was converted"):
        convert.convert(open_checkpoint(checkpoint), output, ConvertOptions(), session)
    assert not list(session.workspace.root.glob("model*"))


def test_what_cannot_be_read_ends_the_converter(
    checkpoint: Path, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise OSError(5, "Input/output error", str(checkpoint / "model.safetensors"))

    monkeypatch.setattr(convert, "scan_weights", fail)
    output = session.workspace.root / "model-F16.gguf"
    with pytest.raises(CheckpointError, match=r"cannot be read: .*Input/output error.*model\.safetensors"):
        convert.convert(open_checkpoint(checkpoint), output, ConvertOptions(), session)
    assert not list(session.workspace.root.glob("model*"))
