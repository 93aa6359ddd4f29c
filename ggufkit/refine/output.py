"""The output matrix as one more linear to refine, behind the final norm."""

from __future__ import annotations

import torch

from ggufkit.layers import HiddenStates, Linear, StreamedModel
from ggufkit.refine.statistics import InputStatistics, Pairing
from ggufkit.refine.twin import Span, TwinHidden

TENSOR = "output.weight"


class TwinHead:
    """The output matrix, and what it is given by the original and by the refined model.

    Args:
        hidden: after the last layer.
    """

    def __init__(self, model: StreamedModel, hidden: TwinHidden) -> None:
        self.model, self._hidden = model, hidden
        self.linear = Linear("lm_head", TENSOR, "output_in", model.width)

    def weight(self, _: Linear) -> torch.Tensor:
        """The original's output matrix, (vocabulary, width)."""
        return self.model.head()

    def set_weight(self, _: Linear, __: torch.Tensor) -> None:
        """Nothing is run after the output matrix."""

    def gather(self) -> InputStatistics:
        """What is known of what the final norm gives."""
        behind = self._hidden.refined
        pairing = Pairing.ITSELF if behind is None else Pairing.INPUT
        sums = InputStatistics(self.linear, self.model.n_vocab, pairing, self.model.device)
        for span in self._hidden.spans():
            original = self._normalized(self._hidden.original, span)
            refined = original if behind is None else self._normalized(behind, span)
            sums.add(refined, original, held_out=span.held_out)
        return sums

    def _normalized(self, hidden: HiddenStates, span: Span) -> torch.Tensor:
        return self.model.normalized(hidden.read(span.start, span.stop)).flatten(0, 1)
