"""The GGUF reader against the `gguf` package's writer, and against damage."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ggufkit.core.errors import GgufError, InputError
from ggufkit.llama.gguf import ggml_type_by_name, named_type, quantized_tensors, read_gguf, read_header, summarize


def write(
    path: Path, metadata: dict[str, Any] | None = None, *, quantized: bool = False, big: bool = False
) -> Path:
    endian = gguf.GGUFEndian.BIG if big else gguf.GGUFEndian.LITTLE
    writer = gguf.GGUFWriter(path, "llama", endianess=endian)
    writer.add_block_count(2)
    for key, value in (metadata or {}).items():
        if isinstance(value, list):
            writer.add_array(key, value)
        elif isinstance(value, int):
            writer.add_uint16(key, value)
        else:
            writer.add_string(key, value)
    rows = np.arange(64 * 3, dtype=np.float32).reshape(3, 64)
    writer.add_tensor("token_embd.weight", rows.astype(np.float16))
    writer.add_tensor("norm.weight", np.ones(64, np.float32))
    if quantized:
        blocks = gguf.quants.quantize(rows, gguf.GGMLQuantizationType.Q8_0)
        writer.add_tensor("blk.0.w.weight", blocks, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_reads_what_the_package_wrote(tmp_path: Path) -> None:
    header = read_header(write(tmp_path / "a.gguf", {"tokenizer.ggml.tokens": ["a", "é", ""], "x.name": "naïve"}))
    assert header.architecture == "llama"
    assert header.hparam("block_count") == 2
    assert header.metadata["tokenizer.ggml.tokens"] == ["a", "é", ""]
    assert header.metadata["x.name"] == "naïve"
    embedding = header.by_name["token_embd.weight"]
    assert (embedding.shape, embedding.type, embedding.n_elements, embedding.n_bytes) == ((64, 3), "F16", 192, 384)
    with header.path.open("rb") as file:
        file.seek(embedding.offset)
        data = np.frombuffer(file.read(embedding.n_bytes), np.float16)
    assert np.array_equal(data, np.arange(192, dtype=np.float16))


def test_which_tensors_are_quantized(tmp_path: Path) -> None:
    header = read_header(write(tmp_path / "a.gguf", quantized=True))
    types = ["F32", "BF16", "I32", "IQ2_XS", "IQ4_NL", "Q4_K", "TQ1_0", "MXFP4"]
    tensors = tuple(replace(header.tensors[0], name=kind, type=kind) for kind in types)
    found = quantized_tensors(replace(header, tensors=tensors))
    assert [t.name for t in found] == ["IQ2_XS", "IQ4_NL", "Q4_K", "TQ1_0", "MXFP4"]


def test_a_vocabulary_is_no_model(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "vocab.gguf", "llama")
    writer.add_token_list(["a", "b"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    assert summarize(read_header(tmp_path / "vocab.gguf")).bpw == 0
    with pytest.raises(GgufError, match="holds no weights"):
        read_gguf(tmp_path / "vocab.gguf")


def test_bits_per_weight_counts_every_tensor(tmp_path: Path) -> None:
    file = read_gguf(write(tmp_path / "a.gguf", quantized=True))
    assert file.n_params == 192 + 64 + 192
    assert file.tensor_bytes == 384 + 256 + 192 // 32 * 34
    assert file.bpw == pytest.approx(8 * file.tensor_bytes / file.n_params)
    assert file.tensor_types == {"F16": 1, "F32": 1, "Q8_0": 1}
    assert [t.name for t in quantized_tensors(read_header(file.path))] == ["blk.0.w.weight"]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    values=st.dictionaries(st.text("abcxyz.", min_size=3), st.lists(st.text(max_size=9), min_size=1), max_size=5)
)
def test_metadata_arrays_round_trip(tmp_path: Path, values: dict[str, list[str]]) -> None:
    wanted = {f"test.{key}": value for key, value in values.items()}
    metadata = read_header(write(tmp_path / "a.gguf", wanted)).metadata
    assert {key: metadata[key] for key in wanted} == wanted
    assert set(wanted) <= set(metadata)


@pytest.mark.parametrize("keep", [0, 3, 4, 11, 24, 60, 200])
def test_a_cut_header_is_refused(tmp_path: Path, keep: int) -> None:
    path = write(tmp_path / "a.gguf", {"tokenizer.ggml.tokens": ["token"] * 50})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(GgufError, match=r"truncated|empty|not a GGUF"):
        read_header(path)


def test_cut_data_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.gguf")
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(GgufError, match=r"is truncated: it has [\d,]+ bytes, its tensors need"):
        read_gguf(path)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.integers(4, 300), value=st.integers(0, 255))
def test_one_wrong_byte_never_crashes(tmp_path: Path, position: int, value: int) -> None:
    path = write(tmp_path / "a.gguf", {"tokenizer.ggml.tokens": ["token"] * 5})
    data = bytearray(path.read_bytes())
    data[min(position, len(data) - 1)] = value
    path.write_bytes(data)
    with contextlib.suppress(GgufError):
        summarize(read_header(path))


def test_big_endian_is_named(tmp_path: Path) -> None:
    with pytest.raises(GgufError, match="big-endian"):
        read_header(write(tmp_path / "a.gguf", big=True))


def test_missing_file_and_unknown_type(tmp_path: Path) -> None:
    with pytest.raises(GgufError, match="is not there"):
        read_header(tmp_path / "none.gguf")
    assert ggml_type_by_name("Q4_K") == (256, 144)
    with pytest.raises(GgufError, match="Q9_Z"):
        ggml_type_by_name("Q9_Z")


def test_a_directory_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(GgufError, match="is no regular file"):
        read_header(tmp_path)


@pytest.mark.parametrize("kind", ["adapter", "mmproj", "imatrix"])
def test_what_belongs_to_a_model_is_none(tmp_path: Path, kind: str) -> None:
    file = write(tmp_path / "a.gguf", {"general.type": kind})
    assert read_header(file).metadata["general.type"] == kind
    with pytest.raises(GgufError, match="is no model, but ") as caught:
        read_gguf(file)
    assert caught.value.hint == "Give the GGUF of the model that it belongs to."


def test_a_part_of_a_split_model_is_no_model(tmp_path: Path) -> None:
    part = write(tmp_path / "m-00001-of-00003.gguf", {"split.no": 0, "split.count": 3})
    for read in (read_gguf, read_header):
        with pytest.raises(GgufError, match=r"m-00002-of-00003.gguf is not there: part 2 of 3") as refused:
            read(part)
        assert "beside each other" in str(refused.value.hint)
    with pytest.raises(InputError, match="one of 3 parts"):
        read_gguf(part.rename(tmp_path / "n.gguf"))
    for count in (1, 0):  # as llama-gguf-split leaves it where it joined them
        assert read_gguf(write(tmp_path / "m.gguf", {"split.count": count})).n_params > 0


def test_the_mix_is_called_as_llama_cpp_calls_it(tmp_path: Path) -> None:
    header = read_header(write(tmp_path / "a.gguf"))
    assert named_type(header) is None
    for number, name in ((15, "Q4_K_M"), (0, "F32"), (32, "BF16"), (9999, None)):
        assert named_type(replace(header, metadata={"general.file_type": number})) == name
