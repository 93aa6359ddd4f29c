"""What a file's score by a task depends on."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import gguf
import pytest

from ggufkit.commands.tasks import _require_kin
from ggufkit.core.errors import InputError
from ggufkit.core.records import GgufFile
from ggufkit.measure.tasks import scores
from ggufkit.steps.step import Recipe


def recipe_of(digest: str) -> Recipe:
    session = SimpleNamespace(
        ensure=lambda recipe, _path, _make: recipe, workspace=SimpleNamespace(measurements=Path("measurements"))
    )
    asking: Any = SimpleNamespace(session=session, data=SimpleNamespace(name="mine"))
    answers: Any = SimpleNamespace(path=Path("a.mine.answers.json"), sha256="the same answers")
    file = GgufFile(Path("a.gguf"), 0, "llama", "", 0, 0, {}, digest)
    return cast(Recipe, scores._score(file, answers, None, asking))


def test_files_that_answer_alike_have_scores_of_their_own() -> None:
    assert recipe_of("1" * 64).inputs == recipe_of("1" * 64).inputs
    assert recipe_of("1" * 64).inputs != recipe_of("2" * 64).inputs


def test_flips_are_of_files_of_one_model(tmp_path: Path) -> None:
    files = []
    for name in ("llama", "qwen2"):
        writer = gguf.GGUFWriter(tmp_path / f"{name}.gguf", name)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        files.append(GgufFile(tmp_path / f"{name}.gguf", 0, name, "", 0, 0, {}))
    one, other = files
    _require_kin(one, one)
    with pytest.raises(InputError, match=r"is not of the model of .*its architecture is qwen2"):
        _require_kin(other, one)
