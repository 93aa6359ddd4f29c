"""How little a model loses at each size: predicted everywhere, measured at a few sizes beside the presets."""

from __future__ import annotations

from collections.abc import Mapping

from ggufkit.core.part_names import stem_of
from ggufkit.core.records import GgufFile, QuantType
from ggufkit.pipeline.recipe_engine import RecipeEngine, RecipeSources
from ggufkit.recipes.curve import Curve, Predicted, Preset, Verified
from ggufkit.recipes.options import RecipeOptions
from ggufkit.steps.session import Session

_POINTS, _VERIFIED_AT = 24, (0.2, 0.5, 0.8)
_PRESETS = ("Q2_K", "Q3_K_M", "Q4_K_M", "Q5_K_M", "Q6_K")


def curve(base: GgufFile, sources: RecipeSources, options: RecipeOptions, session: Session) -> Curve:
    """The front of KL divergence against bytes, from the smallest types allowed to the largest.

    Raises:
        UsageError, InputError, ToolError: as `make_recipe` raises them.
    """
    engine = RecipeEngine(base, sources, options, session)
    smallest, largest = engine.ends
    ratio = largest / smallest
    budgets = [int(smallest * ratio ** (i / (_POINTS - 1))) for i in range(_POINTS)]
    solved = [engine.solve(engine.first, budget) for budget in budgets]
    verified = [solved[round(at * (_POINTS - 1))] for at in _VERIFIED_AT]
    presets = {name: engine.preset(QuantType(name, "")) for name in _PRESETS}
    found = engine.compared([*(one.types for one in verified), *presets.values()])
    engine.clear()
    sizes = _Sizes(engine)
    text = sources.calibration.name
    return Curve(
        tuple(Predicted(*sizes.of(one.types), one.loss) for one in solved),
        tuple(Verified(*sizes.of(one.types), f.kld, f.stderr) for one, f in zip(verified, found, strict=False)),
        tuple(
            Preset(name, *sizes.of(types), f.kld, f.stderr)
            for (name, types), f in zip(presets.items(), found[len(verified) :], strict=True)
        ),
        stem_of(base.path),
        text,
        text,
    )


class _Sizes:
    """The sizes of files by the types of their tensors."""

    def __init__(self, engine: RecipeEngine) -> None:
        self._engine = engine

    def of(self, types: Mapping[str, str]) -> tuple[int, float]:
        """Bytes of the file, and bits per weight."""
        engine = self._engine
        tensors = engine.n_bytes(types) + engine.fixed_bytes
        return engine.header.data_offset + tensors, 8 * tensors / engine.base.n_params
