"""What quantize says of tensors that its types' blocks do not fit."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from ggufkit.commands import steps
from ggufkit.steps.step import Result


@pytest.mark.parametrize(
    ("fallbacks", "said"),
    [
        ([], ""),
        (
            [["a", "Q4_K", "Q5_0"], ["b", "Q6_K", "Q8_0"], ["c", "Q4_K", "Q5_0"]],
            "m-Q4_K_M.gguf has 6.17 bits/weight: the rows of 3 tensors are no whole number of their types' blocks "
            "(Q5_0 for Q4_K 2 times, Q8_0 for Q6_K 1 times).",
        ),
    ],
)
def test_each_substitution_is_counted(
    fallbacks: list[list[str]], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ggufkit.models.sources.open_gguf", lambda _path: SimpleNamespace(bpw=6.1712))
    manifest = SimpleNamespace(notes={"n_fallback": len(fallbacks), "fallbacks": fallbacks})
    made = cast(Result, SimpleNamespace(path=Path("out/m-Q4_K_M.gguf"), manifest=cast(Any, manifest)))
    assert steps._substitutes(made) == said
