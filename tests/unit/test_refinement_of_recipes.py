"""How a build refines: what a recipe may have made coarse is refined, too."""

from types import SimpleNamespace
from typing import Any, cast

from ggufkit.core.records import QuantType
from ggufkit.llama import targets
from ggufkit.pipeline.artifacts import Artifacts
from ggufkit.refine.options import RefineOptions


def test_the_output_of_a_recipes_file_is_refined_too() -> None:
    asked = RefineOptions(tune_norms=True)
    made = object.__new__(Artifacts)
    made.job = cast(Any, SimpleNamespace(request=SimpleNamespace(refinement=asked)))
    preset = QuantType("Q4_0", "")
    (measured,) = targets.resolve(["like:q4_0"], [preset])
    assert made._refinement(preset) == asked
    assert made._refinement(measured) == RefineOptions(tune_norms=True, include_output=True)
