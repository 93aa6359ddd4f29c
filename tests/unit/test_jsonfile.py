"""JSON of others: within limits, in shape, or an error that names the file."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ggufkit.core.errors import CheckpointError, InputError
from ggufkit.core.jsonfile import MAX_DEPTH, parse_json, read_json


@dataclass(frozen=True)
class Shape:
    names: dict[str, str]
    count: int = 0


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"{", "is not valid JSON"),
        (b"[]", "is not as expected: Expected `object`, got `array`"),
        (b"{}", "missing required field `names`"),
        (b'{"names": ["a"]}', "Expected `object`, got `array` - at `$.names`"),
        (b'{"names": {"a": 1}}', "Expected `str`, got `int` - at `$.names[...]`"),
        (b'{"names": {}, "count": 1.5}', "Expected `int`, got `float` - at `$.count`"),
        (b'{"names": {}, "count": NaN}', "Expected `int`, got `float` - at `$.count`"),
        (b'{"names": {"a": "\xff"}}', "Invalid UTF-8"),
        (b'{"names": {"a": "\\ud800"}}', "is not valid JSON"),
        (b'{"names": {"a": "\\ud800"}, "x": NaN}', "is not valid JSON"),
        (b'{"x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested more than 100 deep"),
        (b'{"x": NaN, "y": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested more than 100 deep"),
        (b"\xef\xbb\xbf{}", "UTF-8 with a byte order mark"),
        ("{}".encode("utf-16"), "UTF-16"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "a pointer of Git LFS"),
    ],
)
def test_what_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    file = tmp_path / "a.json"
    file.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        read_json(file, Shape, CheckpointError, hint="Fetch it.")
    assert caught.value.message.startswith(str(file))
    assert said in caught.value.message
    assert caught.value.hint
    assert caught.value.exit_code == 3


def test_what_is_read(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text('{"names": {"é": "x"}, "count": 3, "limit": [0.0, Infinity]}', encoding="utf-8")
    assert read_json(file, Shape) == Shape({"é": "x"}, 3)
    assert parse_json(b'{"a": [NaN, -Infinity]}', dict[str, Any], "x")["a"][1] == -math.inf


@pytest.mark.parametrize("depth", [MAX_DEPTH, MAX_DEPTH + 1])
def test_depth_is_counted_to_the_level(depth: int) -> None:
    text = "[" * depth + "0" + "]" * depth
    if depth == MAX_DEPTH:
        assert parse_json(text, list[Any], "x")
    else:
        with pytest.raises(InputError, match=f"more than {MAX_DEPTH} deep"):
            parse_json(text, list[Any], "x")


def test_a_file_above_the_limit_is_not_taken_in(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text(json.dumps({"names": {}}))
    with pytest.raises(InputError, match="is larger than such a file may be"):
        read_json(file, Shape, limit=8)


@pytest.mark.parametrize("path", [Path("/nowhere/a.json"), Path("/")])
def test_what_cannot_be_opened(path: Path) -> None:
    with pytest.raises(InputError, match=f"{path} cannot be read") as caught:
        read_json(path, Shape)
    assert caught.value.hint


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(JSON)
def test_what_python_wrote_is_read_as_it_was(value: object) -> None:
    assert parse_json(json.dumps({"a": value}), dict[str, Any], "x") == {"a": value}
