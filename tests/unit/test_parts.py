"""A GGUF in parts: they hold the whole file, or it is said why not."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest

from ggufkit.core.errors import GgufError
from ggufkit.core.part_names import by_whole
from ggufkit.core.progress import SilentReporter
from ggufkit.llama import part_set, parts
from ggufkit.llama.gguf_header import GgufHeader, read_own_header
from tests.fake_results import split


def write(path: Path, values: float = 0.0, names: str = "abcdef", note: str = "") -> Path:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(f"tiny{note}")
    writer.add_array("tokenizer.ggml.tokens", ["a", "b"])
    for name in names:
        writer.add_tensor(f"{name}.weight", np.full((4, 32), values, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    return write(tmp_path / "tiny-F32.gguf")


def difference(files: list[Path], whole: Path) -> str | None:
    return parts.difference(files, whole, SilentReporter())


def test_parts_hold_the_whole_file(whole: Path) -> None:
    made = split(whole, 3)
    assert [f.name for f in made] == [f"tiny-F32-0000{i}-of-00003.gguf" for i in (1, 2, 3)]
    assert by_whole([whole, *reversed(made)]) == {"tiny-F32.gguf": made}
    assert difference(made, whole) is None


def missing(made: list[Path], _whole: Path) -> None:
    made.pop(1).unlink()


def swapped(made: list[Path], whole: Path) -> None:
    made[0].rename(whole.with_name("aside"))
    made[1].rename(made[0])
    whole.with_name("aside").rename(made[1])


def truncated(made: list[Path], _whole: Path) -> None:
    with made[2].open("rb+") as file:
        file.truncate(made[2].stat().st_size - 64)


def other_values(_made: list[Path], whole: Path) -> None:
    write(whole, values=1.0)


def other_tensors(_made: list[Path], whole: Path) -> None:
    write(whole, names="abcdxf")


def other_metadata(_made: list[Path], whole: Path) -> None:
    write(whole, note="!")


def two_splits(made: list[Path], whole: Path) -> None:
    shutil.copyfile(made[0], other := whole.with_name("tiny-F32-00001-of-00002.gguf"))
    made.insert(0, other)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (missing, "part 2 of 3 is not there"), (swapped, "is part 2 by what it holds, not part 1"),
        (truncated, "truncated"), (other_values, "other values of a.weight"), (other_tensors, "other tensors"),
        (other_metadata, "other metadata"), (two_splits, "several splits"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_parts_is_said(
    damage: Callable[[list[Path], Path], None], said: str, whole: Path
) -> None:
    made = split(whole, 3)
    damage(made, whole)
    assert said in str(difference(made, whole))


def no_part(header: GgufHeader, _first: GgufHeader) -> GgufHeader:
    return replace(header, metadata={k: v for k, v in header.metadata.items() if k != "split.count"})


def of_a_larger_file(header: GgufHeader, _first: GgufHeader) -> GgufHeader:
    return replace(header, metadata={**header.metadata, "split.tensors.count": 7})


def with_the_first_ones_tensors(header: GgufHeader, first: GgufHeader) -> GgufHeader:
    return replace(header, tensors=first.tensors)


def without_tensors(header: GgufHeader, _first: GgufHeader) -> GgufHeader:
    return replace(header, tensors=())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (no_part, "is no part of a split GGUF, though it is called so"),
        (of_a_larger_file, "is a part of another file, with 7 tensors; tiny-F32-00001-of-00003.gguf is of one with 6"),
        (with_the_first_ones_tensors, "holds a.weight, which an earlier part holds, too"),
        (without_tensors, "hold 4 tensors, not 6"),
    ],
)  # fmt: skip
def test_headers_that_are_no_set(
    change: Callable[[GgufHeader, GgufHeader], GgufHeader], said: str, whole: Path
) -> None:
    headers = [read_own_header(part) for part in split(whole, 3)]
    part_set.require_set(headers)
    first, second, third = headers
    with pytest.raises(GgufError) as refused:
        part_set.require_set([first, change(second, first), third])
    assert said in refused.value.message
