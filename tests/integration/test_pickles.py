"""Pickled weights become safetensors; what would run code, or grow without end, is refused by its name."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest

from ggufkit.core.errors import CheckpointError
from ggufkit.core.progress import SilentReporter
from ggufkit.models.pickles import as_safetensors

torch = pytest.importorskip("torch", reason="pickled weights need torch")
pytestmark = pytest.mark.usefixtures("private_cache")


class Evil:
    """Unpickled, it would make a directory."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("evil",)


def repacked(file: Path, how: int) -> None:
    """The same archive, its parts compressed in a way."""
    with zipfile.ZipFile(file) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(file, "w", how) as archive:
        for name, data in parts.items():
            archive.writestr(name, data)


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("tensors", ""),
        ("code", "cannot be read: pytorch_model.bin holds more than tensors"),
        ("views", "its tensors are far larger than what is stored of them"),
        ("compressed", "is no file that torch writes: its archive is compressed"),
    ],
)
def test_what_a_file_may_hold(what: str, reason: str, tmp_path: Path) -> None:
    file = tmp_path / "pytorch_model.bin"
    held = {
        "code": {"a": Evil()},
        "views": {"a": torch.ones(1).expand(1 << 20, 1 << 20)},
        "compressed": {"a": torch.zeros(1 << 20)},
    }
    torch.save(held.get(what, {"a": torch.ones(2, 3)}), file)
    if what == "compressed":
        repacked(file, zipfile.ZIP_DEFLATED)
    if not reason:
        assert (as_safetensors(tmp_path, SilentReporter()) / "model.safetensors").is_file()
        return
    with pytest.raises(CheckpointError, match=reason) as refused:
        as_safetensors(tmp_path, SilentReporter())
    assert refused.value.exit_code == 3
    assert str(tmp_path) in refused.value.message
    assert not Path("evil").exists()
