"""Errors of tensors against their originals: right for every type, a block of rows at a time."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray

from ggufkit.core.errors import GgufError
from ggufkit.llama import tensor_error
from ggufkit.llama.gguf import GgufHeader, read_header
from ggufkit.llama.tensor_error import TensorError, by_type, compare_tensors

TYPES = ("F16", "BF16", "Q8_0", "Q5_0", "Q4_0", "Q4_1", "Q5_1", "F32")


def weights(n_rows: int = 300) -> NDArray[np.float32]:
    return np.random.default_rng(3).standard_normal((n_rows, 64)).astype(np.float32)


def write(path: Path, kinds: dict[str, str], n_rows: int = 300) -> GgufHeader:
    """A file whose tensors all hold the same weights, each in a type of its own."""
    writer = gguf.GGUFWriter(path, "llama")
    for name, kind in kinds.items():
        raw = gguf.quants.quantize(weights(n_rows), gguf.GGMLQuantizationType[kind])
        writer.add_tensor(name, raw, raw_dtype=gguf.GGMLQuantizationType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return read_header(path)


def test_errors_are_those_of_the_whole_tensor_worst_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensor_error, "_BLOCK_ELEMENTS", 64 * 7)  # 300 rows: blocks of 7, and a rest
    file = write(tmp_path / "a.gguf", {kind: kind for kind in TYPES})
    reference = write(tmp_path / "b.gguf", dict.fromkeys(TYPES, "F32"))
    errors = compare_tensors(file, reference)
    expected = {}
    for kind in TYPES:
        qtype = gguf.GGMLQuantizationType[kind]
        back = gguf.quants.dequantize(gguf.quants.quantize(weights(), qtype), qtype).astype(np.float64)
        expected[kind] = np.linalg.norm(back - weights()) / np.linalg.norm(weights())
    assert {e.name: e.relative_error for e in errors} == pytest.approx(expected, rel=1e-6)
    assert [e.relative_error for e in errors] == sorted((e.relative_error or 0 for e in errors), reverse=True)
    assert errors[-1].name == "F32"
    assert errors[-1].max_error == 0
    assert (errors[0].type, errors[0].reference_type) == ("Q4_0", "F32")
    assert errors[0].type == "Q4_0"
    assert next(iter(by_type(errors))) == "Q4_0"


def test_progress_is_told(tmp_path: Path) -> None:
    file = write(tmp_path / "a.gguf", {"x": "Q8_0", "y": "F16"})
    told: list[tuple[int, int]] = []
    compare_tensors(file, file, lambda done, total: told.append((done, total)))
    assert told == [(1, 2), (2, 2)]


def test_a_type_that_cannot_be_dequantized_comes_last_and_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path / "a.gguf", {"x": "Q8_0", "y": "Q4_0"})

    def refuse(data: object, kind: gguf.GGMLQuantizationType) -> Any:
        if kind.name == "Q4_0":
            raise NotImplementedError(kind)
        return real(data, kind)

    real = gguf.quants.dequantize
    monkeypatch.setattr(gguf.quants, "dequantize", refuse)
    errors = compare_tensors(file, file)
    assert [e.name for e in errors] == ["x", "y"]
    assert errors[1].relative_error is None
    assert "Q4_0" not in by_type(errors)


def test_another_model_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "a.gguf", {"x": "Q8_0"})
    with pytest.raises(GgufError, match="not the same model: x is \\(64, 300\\) in the one, \\(64, 200\\)"):
        compare_tensors(file, write(tmp_path / "b.gguf", {"x": "F16"}, n_rows=200))
    with pytest.raises(GgufError, match="y is missing"):
        compare_tensors(file, write(tmp_path / "c.gguf", {"x": "F16", "y": "F16"}))


def test_the_columns_of_its_json_stay() -> None:
    names = [field.name for field in fields(TensorError)]
    assert names == ["name", "type", "reference_type", "n_elements", "relative_error", "max_error"]
