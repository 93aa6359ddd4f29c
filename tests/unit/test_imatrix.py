"""Importance matrices of the user's own: do they belong to the model?"""

from __future__ import annotations

import struct
from pathlib import Path

import gguf
import numpy as np
import pytest

from ggufkit.core.errors import InputError
from ggufkit.llama.gguf import GgufHeader, read_header
from ggufkit.steps.imatrix import require_fits

N_EXPERTS, N_COLUMNS = 4, 32


@pytest.fixture
def moe(tmp_path: Path) -> GgufHeader:
    """A model with the stacked matrices of four experts."""
    writer = gguf.GGUFWriter(tmp_path / "moe.gguf", "qwen3moe")
    writer.add_tensor("blk.0.ffn_up_exps.weight", np.zeros((N_EXPERTS, 8, N_COLUMNS), np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return read_header(tmp_path / "moe.gguf")


def write_dat(path: Path, name: str, n_values: int) -> Path:
    """llama.cpp's format before GGUF: entries, then length and name, calls, length and values of each."""
    encoded = name.encode()
    entry = struct.pack("<i", len(encoded)) + encoded + struct.pack("<ii", 1, n_values) + b"\0\0\x80?" * n_values
    path.write_bytes(struct.pack("<i", 1) + entry)
    return path


def test_the_older_format_holds_all_experts_in_one_row(moe: GgufHeader, tmp_path: Path) -> None:
    name = "blk.0.ffn_up_exps.weight"
    assert require_fits(write_dat(tmp_path / "all.dat", name, N_EXPERTS * N_COLUMNS), moe) == ()
    with pytest.raises(InputError, match="64 columns where the model has 32"):
        require_fits(write_dat(tmp_path / "two.dat", name, 2 * N_COLUMNS), moe)
    with pytest.raises(InputError, match=r"which .* lacks"):
        require_fits(write_dat(tmp_path / "other.dat", "blk.9.ffn_up.weight", N_COLUMNS), moe)
