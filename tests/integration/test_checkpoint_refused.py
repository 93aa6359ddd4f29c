"""What a checkpoint cannot be converted for is said before the conversion, with exit code 3."""

from __future__ import annotations

from pathlib import Path

import pytest

from ggufkit.core.errors import CheckpointError
from ggufkit.models.checkpoint import open_checkpoint
from ggufkit.steps import convert
from ggufkit.steps.convert import ConvertOptions
from ggufkit.steps.session import Session
from tests.integration.run_cli import fails
from tests.unit.test_agreement import add_token, settings

INPUT = 3


def test_what_is_seen_without_a_converter(checkpoint: Path, tmp_path: Path, session: Session) -> None:
    number, out = add_token(checkpoint), tmp_path / "out"
    said = fails(INPUT, "convert", checkpoint, "--out", out)
    assert f"has the token '<|extra|>' with the id {number}; the vocab_size in config.json is {number}." in said
    assert "The embedding was not resized" in said
    (checkpoint / "tokenizer.json").write_text("version https://git-lfs.github.com/spec/v1\n")
    assert "git lfs pull" in fails(INPUT, "build", checkpoint, "--no-eval", "--out", out)
    (checkpoint / "tokenizer.json").unlink()
    (checkpoint / "model.safetensors").rename(checkpoint / "mymerge.safetensors")
    assert "It has mymerge.safetensors." in fails(INPUT, "build", checkpoint, "--no-eval", "--out", out)
    (checkpoint / "config.json").rename(checkpoint / "adapter_config.json")
    assert f"build BASE --lora {checkpoint}" in fails(INPUT, "build", checkpoint, "--no-eval", "--out", out)
    assert not list(out.glob("*.gguf"))


def test_an_exception_of_the_converter(checkpoint: Path, session: Session) -> None:
    settings(checkpoint, rope_scaling="wide", model_type="foobar")
    with pytest.raises(CheckpointError, match=r"converter cannot convert .*: \w+Error: ") as caught:
        convert.convert(open_checkpoint(checkpoint), session.workspace.root / "m.gguf", ConvertOptions(), session)
    assert caught.value.log is not None
    assert "Traceback" in caught.value.log.read_text()
