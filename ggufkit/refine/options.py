"""How to refine. No torch here: command lines and tables read the defaults."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RefineOptions:
    """How to refine.

    Args:
        sequential: each linear for the inputs that the refined model gives it; else all for the original's.
        act_order: GPTQ's order of the columns: "on" by falling weight of their inputs, "off" as they are, "auto"
            row by row whichever leaves less error.
        include_output: refine the output matrix too, also where it is the embedding as well.
        tune_norms: then tune norms and biases (`refine.norms`). Takes the whole model in float32.
        distill: then learn super-scales, norms and biases end to end (`refine.distill`). Takes three floats for each
            weight of the model.
        device: "auto", "cpu", "cuda".
    """

    sequential: bool = True
    act_order: str = "auto"
    include_output: bool = False
    tune_norms: bool = False
    distill: bool = False
    device: str = "auto"

    @property
    def tunes(self) -> bool:
        """Whether the whole model is run against the original's answers in the end."""
        return self.tune_norms or self.distill
