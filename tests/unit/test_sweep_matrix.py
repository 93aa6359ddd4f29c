"""What cells a sweep file becomes."""

from __future__ import annotations

from pathlib import Path

import pytest

from ggufkit.core.errors import InputError, UsageError
from ggufkit.request import DEFAULT_TYPES
from ggufkit.sweep import matrix, sweep_file
from ggufkit.sweep.records import Cell


def cells(directory: Path, text: str, *profiles: str) -> dict[str, Cell]:
    file = directory / "sweep.yaml"
    file.write_text("models: [qwen2.5-0.5b, {model: llama-3.2-1b, name: llama, types: [q2_k]}]\n" + text)
    return {cell.name: cell for cell in matrix.cells(sweep_file.read(file), profiles)}


def made(cell: Cell) -> set[tuple[str, str]]:
    """Variants and types of a cell."""
    return set(cell.only or ((v, t) for v in cell.request.variants for t in cell.request.types))


def test_a_cell_for_each_model(tmp_path: Path) -> None:
    found = cells(tmp_path, "")
    assert list(found) == ["qwen2.5-0.5b", "llama"]
    assert found["qwen2.5-0.5b"].request.types == DEFAULT_TYPES
    assert found["qwen2.5-0.5b"].request.out == tmp_path / "sweep" / "qwen2.5-0.5b"
    assert found["llama"].request.types == ("q2_k",)
    assert found["llama"].only is None


def test_what_is_closer_to_the_model_counts(tmp_path: Path) -> None:
    found = cells(
        tmp_path,
        "types: [q8_0]\noptions: {chunks: 60, bench: false}\n"
        "profiles: {quick: {types: [q4_0], options: {chunks: 20}}, full: {models: 'qwen*'}}\n",
    )
    assert list(found) == ["quick/qwen2.5-0.5b", "quick/llama", "full/qwen2.5-0.5b"]
    assert [cell.request.types for cell in found.values()] == [("q4_0",), ("q2_k",), ("q8_0",)]
    assert [cell.request.evaluation.chunks for cell in found.values()] == [20, 20, 60]
    assert not any(cell.request.evaluation.bench for cell in found.values())
    assert found["full/qwen2.5-0.5b"].request.out == tmp_path / "sweep" / "full" / "qwen2.5-0.5b"


def test_excludes_are_taken_off_and_includes_added(tmp_path: Path) -> None:
    found = cells(
        tmp_path,
        "types: [q8_0, iq4_nl]\nvariants: [plain, awq, imatrix]\n"
        "exclude: [{models: 'QWEN*', types: ['IQ*'], variants: ['awq*']}, {models: llama, variants: [awq]}]\n"
        "include: [{models: llama, types: [q4_0], variants: [imatrix]}]\n",
    )
    assert made(found["qwen2.5-0.5b"]) == {
        ("plain", "q8_0"), ("plain", "iq4_nl"), ("awq", "q8_0"), ("imatrix", "q8_0"), ("imatrix", "iq4_nl"),
    }  # fmt: skip
    assert made(found["llama"]) == {("plain", "q2_k"), ("imatrix", "q2_k"), ("imatrix", "q4_0")}
    assert found["llama"].request.variants == ("plain", "imatrix")


def test_an_include_without_variants_means_those_of_the_model(tmp_path: Path) -> None:
    found = cells(tmp_path, "types: [q8_0]\nvariants: [plain, awq]\ninclude: [{types: [q3_k_m]}]\n")
    assert found["llama"].request.types == ("q2_k", "q3_k_m")
    assert found["llama"].only is None


def test_a_model_of_which_all_is_excluded_is_no_cell(tmp_path: Path) -> None:
    assert list(cells(tmp_path, "exclude: [{models: llama}]\n")) == ["qwen2.5-0.5b"]


def test_profiles_exclude_for_themselves(tmp_path: Path) -> None:
    text = "types: [q8_0, q4_0]\nprofiles: {quick: {exclude: [{types: [q8_0]}]}, full: }\n"
    found = cells(tmp_path, text)
    assert found["quick/qwen2.5-0.5b"].request.types == ("q4_0",)
    assert found["full/qwen2.5-0.5b"].request.types == ("q8_0", "q4_0")
    assert list(cells(tmp_path, text, "full")) == ["full/qwen2.5-0.5b", "full/llama"]


def test_only_profiles_that_are_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has no profiles"):
        cells(tmp_path, "", "quick")
    with pytest.raises(UsageError, match="'quik'") as caught:
        cells(tmp_path, "profiles: {quick: {}}\n", "quik")
    assert caught.value.hint == "Did you mean quick?"


def test_a_text_to_calibrate_on_is_for_builds_that_use_one(tmp_path: Path) -> None:
    found = cells(tmp_path, "calibration: chat\nvariants: [imatrix]\nprofiles: {a: {}, b: {variants: [plain]}}\n")
    assert [found[f"{p}/llama"].request.calibration.text for p in "ab"] == ["chat", "wikitext2-train"]


def test_options_that_contradict_each_other_are_told_at_the_model(tmp_path: Path) -> None:
    (tmp_path / "own.imatrix").touch()
    with pytest.raises(InputError, match=r"line 1, column 10: --imatrix is not used by --variants plain"):
        cells(tmp_path, "options: {imatrix: own.imatrix}\n")
