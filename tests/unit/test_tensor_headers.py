"""A safetensors header by the format's own rules."""

from __future__ import annotations

import contextlib
import json
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ggufkit.core.errors import CheckpointError
from ggufkit.models.tensor_headers import read_tensors

GOOD = {"dtype": "F16", "shape": [2, 2], "data_offsets": [0, 8]}


def write(path: Path, header: object, data: int = 8) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"\0" * data)
    return path


def test_a_good_header(tmp_path: Path) -> None:
    more = {"dtype": "F4", "shape": [4], "data_offsets": [8, 10]}
    file = write(tmp_path / "m", {"b": more, "__metadata__": {"format": "pt"}, "a": GOOD}, 10)
    assert [(t.name, t.shape, t.end - t.start) for t in read_tensors(file)] == [("a", (2, 2), 8), ("b", (4,), 2)]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"data_offsets": [0.0, 8.0]}, "Expected `int`"),
        ({"data_offsets": [float("nan"), 8]}, "Expected `int`"),
        ({"data_offsets": [8, 0]}, "negative size or place"),
        ({"data_offsets": [-8, 0]}, "negative size or place"),
        ({"data_offsets": [8, 16]}, "does not follow the tensor before it"),
        ({"data_offsets": [0]}, "length"),
        ({"data_offsets": [0, 1 << 70]}, "does not fit its shape"),
        ({"shape": [-2, -2]}, "negative size or place"),
        ({"shape": [2, True]}, "Expected `int`"),
        ({"shape": [1 << 62, 1 << 62]}, "does not fit its shape"),
        ({"shape": [10**18] * 100_000}, "has 100,000 dimensions"),
        ({"dtype": "F17"}, "unknown dtype 'F17'"),
        ({"dtype": 3}, "Expected `str`"),
    ],
)
def test_a_tensor_against_the_rules(tmp_path: Path, change: dict[str, object], reason: str) -> None:
    with pytest.raises(CheckpointError, match=reason) as caught:
        read_tensors(write(tmp_path / "m", {"a": {**GOOD, **change}}, 16))
    assert (str(tmp_path / "m") in caught.value.message, caught.value.exit_code) == (True, 3)


@pytest.mark.parametrize(
    ("header", "data", "reason"),
    [
        ({"a": GOOD}, 7, "is truncated"),
        ({"a": GOOD, "__metadata__": ["x"]}, 8, "Expected `object`"),
        ({"a": GOOD, "__metadata__": {"x": 1}}, 8, "Expected `str`"),
        ({"a": GOOD}, 9, "1 bytes after its last tensor"),
        ({"a": GOOD, "b": GOOD}, 8, "does not follow"),
        ([], 0, "Expected `object`"),
        (b'{"a":' * 50_000, 0, "nested"),
        ({"a": 1}, 0, "Expected `object`"),
        (b"", 0, "is empty"),
    ],
)
def test_a_file_against_the_rules(tmp_path: Path, header: object, data: int, reason: str) -> None:
    with pytest.raises(CheckpointError, match=reason):
        read_tensors(write(tmp_path / "m", header, data))


def test_a_header_that_is_too_long(tmp_path: Path) -> None:
    file = tmp_path / "m"
    with file.open("wb") as out:
        out.write(struct.pack("<Q", 200_000_000))
        out.truncate(300_000_000)
    with pytest.raises(CheckpointError, match="at most 100,000,000 are allowed"):
        read_tensors(file)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    file = tmp_path_factory.getbasetemp() / "any.safetensors"
    for content in (data, struct.pack("<Q", len(data)) + data):
        file.write_bytes(content)
        with contextlib.suppress(CheckpointError):
            read_tensors(file)
