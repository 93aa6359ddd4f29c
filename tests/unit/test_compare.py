"""Only what was measured alike stands side by side."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from ggufkit.cli.report import compare_command
from ggufkit.core.errors import InputError
from ggufkit.report import compare
from tests.fake_results import FAKES, write_results


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    return write_results(tmp_path / "one", FAKES[:3]), write_results(tmp_path / "two", FAKES[:4])


def test_same_conditions_are_joined(two: tuple[Path, Path]) -> None:
    found = compare.compare(compare.load(two))
    assert found.comparable
    assert len(found.quality) == len(found.speed) == 1
    assert {s.origin for s in found.quality[0].samples} == {"one", "two"}


@pytest.mark.parametrize(
    ("fact", "value", "reason"),
    [
        ("n_chunks", 20, "another number of chunks: 20, not 60"),
        ("n_ctx", 2048, "another context: 2048, not 512"),
        ("corpus_sha256", "c" * 64, "another text: cccccccccccc, not abababababab"),
        ("base_sha256", "d" * 64, "another base: dddddddddddd"),
    ],
)
def test_other_conditions_stand_apart_with_the_reason(
    two: tuple[Path, Path], fact: str, value: object, reason: str
) -> None:
    samples = compare.load(two)
    changed = [
        s
        if s.origin == "one" or s.entry.is_base
        else replace(s, entry=replace(s.entry, quality=replace(s.entry.quality, **{fact: value})))  # type: ignore[type-var]
        for s in samples
    ]
    groups = compare.groups(changed, compare.quality_facts)
    assert len(groups) == 2
    assert reason in groups[1].reasons[0]


def test_speed_depends_on_the_machine_and_not_quality(two: tuple[Path, Path], tmp_path: Path) -> None:
    other = write_results(tmp_path / "three", [replace(f, machine="Elsewhere") for f in FAKES[:3]])
    found = compare.compare(compare.load([two[0], other]))
    assert len(found.quality) == 1
    assert len(found.speed) == 2
    assert found.speed[1].reasons[0].startswith("another machine: ")


def test_toolchains_that_differ_are_remarked(two: tuple[Path, Path]) -> None:
    samples = compare.load(two)
    quality = samples[0].entry.quality
    assert quality is not None
    other = replace(samples[0], entry=replace(samples[0].entry, quality=replace(quality, llama_cpp_commit="fff")))
    assert "Measured with several llama.cpp commits" in compare.compare([*samples[1:], other]).remarks[0]


def test_the_command(two: tuple[Path, Path], tmp_path: Path) -> None:
    ended = CliRunner().invoke(compare_command, [str(d) for d in two], catch_exceptions=False)
    assert ended.exit_code == 0
    assert "0.006134" in ended.output
    apart = write_results(tmp_path / "three", [replace(f, n_chunks=20, machine="Elsewhere") for f in FAKES[:3]])
    with pytest.raises(
        InputError, match="Nothing here is comparable: another number of chunks: 20, not 60"
    ) as error:
        CliRunner().invoke(compare_command, [str(two[0]), str(apart)], catch_exceptions=False)
    assert error.value.exit_code == 3


def test_directories_of_one_name_are_told_apart(tmp_path: Path) -> None:
    first, second = (
        write_results(tmp_path / "a" / "out", FAKES[:2]),
        write_results(tmp_path / "b" / "out", FAKES[:2]),
    )
    assert {s.origin for s in compare.load([first, second])} == {str(first), str(second)}
