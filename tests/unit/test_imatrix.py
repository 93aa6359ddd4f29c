"""Importance matrices of the user's own: do they belong to the model?"""

from __future__ import annotations

import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray

from ggufkit.core.errors import InputError
from ggufkit.llama.gguf import GgufHeader, read_header
from ggufkit.steps.imatrix import require_fits

N_EXPERTS, N_COLUMNS = 4, 32


@pytest.fixture
def moe(tmp_path: Path) -> GgufHeader:
    """A model with the stacked matrices of four experts, and a convolution, which no matrix has data for."""
    writer = gguf.GGUFWriter(tmp_path / "moe.gguf", "qwen3moe")
    writer.add_tensor("blk.0.ffn_up_exps.weight", np.zeros((N_EXPERTS, 8, N_COLUMNS), np.float16))
    writer.add_tensor("blk.0.ssm_conv1d.weight", np.zeros((8, 4), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return read_header(tmp_path / "moe.gguf")


def write_dat(path: Path, name: str, n_values: int, first: float = 1.0, rest: float = 1.0) -> Path:
    """llama.cpp's format before GGUF: entries, then length and name, calls, length and values of each."""
    encoded = name.encode()
    values = struct.pack(f"<{n_values}f", first, *[rest] * (n_values - 1))
    entry = struct.pack("<i", len(encoded)) + encoded + struct.pack("<ii", 1, n_values) + values
    path.write_bytes(struct.pack("<i", 1) + entry)
    return path


def test_the_older_format_holds_all_experts_in_one_row(moe: GgufHeader, tmp_path: Path) -> None:
    name = "blk.0.ffn_up_exps.weight"
    assert require_fits(write_dat(tmp_path / "all.dat", name, N_EXPERTS * N_COLUMNS), moe) == ()
    with pytest.raises(InputError, match="64 columns where the model has 32"):
        require_fits(write_dat(tmp_path / "two.dat", name, 2 * N_COLUMNS), moe)
    with pytest.raises(InputError, match=r"which .* lacks"):
        require_fits(write_dat(tmp_path / "other.dat", "blk.9.ffn_up.weight", N_COLUMNS), moe)


IMPOSSIBLE, ZEROS = (
    "values that are negative, NaN or infinite",
    "zeros alone, which would make zeros of its weights",
)
SPOILT = [(np.nan, 1.0, IMPOSSIBLE), (np.inf, 1.0, IMPOSSIBLE), (-1.0, 1.0, IMPOSSIBLE), (0.0, 0.0, ZEROS)]


@pytest.mark.parametrize(("first", "rest", "fault"), SPOILT)
def test_values_that_would_spoil_a_tensor(
    moe: GgufHeader, tmp_path: Path, first: float, rest: float, fault: str
) -> None:
    """llama-quantize ends with them, or makes zeros of every weight and says nothing."""
    name = "blk.0.ffn_up_exps.weight"
    said = rf"(?m)is not an importance matrix: {name} holds {fault}\.$"
    with pytest.raises(InputError, match=said) as caught:
        require_fits(write_dat(tmp_path / "x.dat", name, N_EXPERTS * N_COLUMNS, first, rest), moe)
    assert caught.value.exit_code == 3
    sums = np.ones((N_EXPERTS, N_COLUMNS), np.float32)
    sums[1] = [first, *[rest] * (N_COLUMNS - 1)]
    with pytest.raises(InputError, match=said):
        require_fits(write_imatrix(tmp_path / "x.gguf", name, sums, [1.0] * N_EXPERTS), moe)


def test_zeros_of_an_expert_that_no_token_reached(moe: GgufHeader, tmp_path: Path) -> None:
    """llama-quantize weighs its columns evenly; one column that is zero is no fault either."""
    name, sums = "blk.0.ffn_up_exps.weight", np.ones((N_EXPERTS, N_COLUMNS), np.float32)
    sums[1], sums[0, 0] = 0.0, 0.0
    file = write_imatrix(tmp_path / "x.gguf", name, sums, [1.0, 0.0, 1.0, 1.0])
    assert require_fits(file, moe) == (f"{name} (1 of 4 experts)",)


def write_imatrix(path: Path, name: str, sums: NDArray[np.float32], counts: list[float]) -> Path:
    """llama.cpp's format of today."""
    writer = gguf.GGUFWriter(path, "")
    writer.add_tensor(name + ".in_sum2", sums)
    writer.add_tensor(name + ".counts", np.array(counts, np.float32)[:, None])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
