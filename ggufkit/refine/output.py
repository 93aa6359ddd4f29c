"""The output matrix as one more linear to refine, behind the final norm."""

from __future__ import annotations

import torch

from ggufkit.layers import HiddenStates, Linear, Moments, StreamedModel
from ggufkit.refine.stages import Gathered, batches

TENSOR = "output.weight"


class TwinHead:
    """The output matrix, and what it is given by the original and by the refined model.

    Args:
        hidden: of the original and of the refined model, after the last layer; one object if they are the same.
        n_samples: how many samples count; those after them are kept apart.
    """

    def __init__(self, model: StreamedModel, hidden: tuple[HiddenStates, HiddenStates], n_samples: int) -> None:
        self.model, self.hidden, self.n_samples = model, hidden, n_samples
        self.linear = Linear("lm_head", TENSOR, "output_in", model.width)

    def weight(self, _: Linear) -> torch.Tensor:
        """The original's output matrix, (vocabulary, width)."""
        return self.model.head()

    def set_weight(self, _: Linear, __: torch.Tensor) -> None:
        """Nothing is run after the output matrix."""

    def gather(self) -> Gathered:
        """Second moments of what the final norm gives."""
        width, device = self.model.width, self.model.device
        sequential = self.hidden[0] is not self.hidden[1]
        wanted = torch.zeros(width, width, device=device) if sequential else None
        sums = Gathered(Moments(width, device), wanted, direct=False)
        for start, first, second in batches(self.hidden, self.n_samples, device):
            original = self.model.normalized(first).flatten(0, 1)
            refined = self.model.normalized(second).flatten(0, 1) if sequential else original
            if start < self.n_samples:
                sums.add(refined, original)
            else:
                sums.held_out.append((refined, original))
        return sums
