"""The output matrix as one more linear to refine, behind the final norm. It may be the embedding as well."""

from __future__ import annotations

import math

import torch

from ggufkit.layers import HiddenStates, Linear, StreamedModel
from ggufkit.refine.statistics import InputStatistics, Pairing
from ggufkit.refine.twin import Span, TwinHidden


class TwinHead:
    """The output matrix, and what it is given by the original and by the refined model.

    Args:
        hidden: after the last layer.
        tensor: its name in a GGUF.
        reads: how much an error of its rows as they are weighs beside the squared error of what it gives for a token;
            0 if it is not the embedding.
    """

    def __init__(self, model: StreamedModel, hidden: TwinHidden, tensor: str, reads: float = 0.0) -> None:
        self.model, self._hidden, self._reads = model, hidden, reads
        self.linear = Linear("lm_head", tensor, "output_in", model.width)

    def weight(self, _: Linear) -> torch.Tensor:
        """The original's output matrix, (vocabulary, width)."""
        return self.model.head()

    def set_weight(self, _: Linear, __: torch.Tensor) -> None:
        """Nothing is run after the output matrix."""

    def gather(self) -> InputStatistics:
        """What is known of what the final norm gives. Whoever reads rows gives a matrix one column at a time."""
        behind = self._hidden.refined
        pairing = Pairing.ITSELF if behind is None else Pairing.INPUT
        sums = InputStatistics(self.linear, self.model.n_vocab, pairing, self.model.device)
        for span in self._hidden.spans():
            original = self._normalized(self._hidden.original, span)
            refined = original if behind is None else self._normalized(behind, span)
            sums.add(refined, original, held_out=span.held_out)
        for count, held_out in ((sums.moments.count, False), (sums.n_held_out, True)):
            if self._reads and count:
                rows = math.sqrt(self._reads * count) * torch.eye(self.model.width, device=self.model.device)
                sums.add(rows, rows, held_out=held_out)
        return sums

    def _normalized(self, hidden: HiddenStates, span: Span) -> torch.Tensor:
        return self.model.normalized(hidden.read(span.start, span.stop)).flatten(0, 1)
