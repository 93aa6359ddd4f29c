"""Every reader and parser on 5,000 broken inputs: each is read right, or refused by an error of ggufkit's."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import fuzz, fuzzing
from benchmarks.fuzzing.reader import Reader, accepted

INPUTS = int(os.environ.get("FUZZ_INPUTS", "5000"))


@pytest.fixture(scope="module")
def readers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Reader]]:
    before = os.environ.get("GGUFKIT_CACHE")
    yield fuzzing.readers(tmp_path_factory.mktemp("fuzz"))
    if before is None:
        os.environ.pop("GGUFKIT_CACHE", None)
    else:
        os.environ["GGUFKIT_CACHE"] = before


def test_each_input_is_right_or_refused(readers: list[Reader], tmp_path: Path) -> None:
    wanted = fuzz.shares(INPUTS, readers)
    counts = [fuzz.run(reader, range(wanted[reader.name]), 7, tmp_path) for reader in readers]
    assert sum(count.right + count.refused for count in counts) >= INPUTS - len(counts)
    assert {count.reader: count.faults for count in counts if count.faults} == {}


def test_a_sample_of_each_is_right_before_it_is_changed(readers: list[Reader], tmp_path: Path) -> None:
    broken = [reader.name for reader in readers if not accepted(reader.read, reader.samples, tmp_path)]
    assert broken == []


def test_what_is_a_fault(tmp_path: Path) -> None:
    def read(data: bytes, _place: Path) -> None:
        if len(data) % 2:
            raise KeyError("x")

    count = fuzz.run(Reader("x", [b"a sample"], read), range(50), 0, tmp_path)
    assert count.right + count.n_faults == 50
    assert count.right
    (what,) = count.faults
    assert what.startswith("KeyError: \"'x'\" at test_fuzz.py:")
    reader = Reader("x", [b"a sample"], read)
    assert len(fuzz.input_of(reader, 0, count.faults[what][0])) % 2 == 1, "an input can be made again"
