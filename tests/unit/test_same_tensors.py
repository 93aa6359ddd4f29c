"""Files of one content are known by their tensors, whatever their metadata say."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest

from ggufkit.llama import same_tensors as module
from ggufkit.llama.gguf import read_header
from ggufkit.llama.same_tensors import same_tensors


def write(path: Path, *, name: str = "a", weight: str = "w", last: float = 0.0, rows: int = 64) -> Path:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(name)
    data = np.zeros((rows, 256), np.float16)
    data[-1, -1] = last
    writer.add_tensor("norm", np.ones(256, np.float32))
    writer.add_tensor(weight, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_metadata_do_not_count(tmp_path: Path) -> None:
    one, other = write(tmp_path / "a.gguf"), write(tmp_path / "b.gguf", name="another name, of another length")
    assert same_tensors(read_header(one), read_header(other))


@pytest.mark.parametrize("other", [{"last": 1.0}, {"weight": "v"}, {"rows": 32}])
def test_every_byte_and_name_counts(other: dict[str, float], tmp_path: Path) -> None:
    one, changed = write(tmp_path / "a.gguf"), write(tmp_path / "b.gguf", **other)  # type: ignore[arg-type]
    assert not same_tensors(read_header(one), read_header(changed))


def test_the_last_byte_lies_behind_the_start_that_is_looked_at_first(tmp_path: Path) -> None:
    assert module._START < 64 * 256 * 2
