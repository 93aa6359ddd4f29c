"""How a recipe of types is made; read at start-up, so nothing that computes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ggufkit.core.errors import UsageError
from ggufkit.core.manifest import Notes, Params
from ggufkit.llama import quants
from ggufkit.recipes.effort import EFFORTS, Effort

STEP = "recipe"
"""The step that makes one."""


@dataclass(frozen=True)
class RecipeOptions:
    """How a recipe is made.

    Args:
        effort: one of `recipes.effort.EFFORTS`: how much is measured.
        types_allowed: tensor types to choose from, none for those that are fast on the backend.
        at_least: patterns of tensors' names, and the smallest type that these may get, by bytes.
        weigh: quantize with the importance matrix, too; without, it weighs the errors alone.
        n_ctx: context in tokens.
        speed: the fastest types are chosen among those that are expected to lose at most this fraction more than the best.
    """

    effort: str = "default"
    types_allowed: tuple[str, ...] = ()
    at_least: tuple[tuple[str, str], ...] = ()
    weigh: bool = True
    n_ctx: int = 512
    speed: float = 0.0

    def __post_init__(self) -> None:
        """Types may be given in any case. Raises UnknownType, or UsageError for an effort that there is not."""
        if self.effort not in EFFORTS:
            raise UsageError(f"There is no effort {self.effort!r}.", hint=f"Choose from {', '.join(EFFORTS)}.")
        object.__setattr__(self, "types_allowed", tuple(map(quants.tensor_type, self.types_allowed)))

    @property
    def measured(self) -> Effort:
        """What the effort stands for."""
        return EFFORTS[self.effort]


@dataclass(frozen=True)
class RecipeNotes(Notes):
    """What is known of a recipe: what it is for, what was measured for it, and the names of text and importance matrix."""

    target: str = ""
    n_evaluations: int = 0
    calibration_source: str = ""
    imatrix_source: str = ""


@dataclass(frozen=True)
class RecipeParams(Params):
    """What of it a manifest holds, besides its inputs."""

    effort: str = "default"
    types_allowed: Sequence[str] = ()
