"""What is known of the input of some linears: its second moments, what it stands for in the original, held-out tokens."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import torch

from ggufkit.layers import Linear, Moments


class Pairing(Enum):
    """What an input x̂ of the refined model is set against."""

    ITSELF = "nothing else is known of its token in the original"
    INPUT = "the original's input x"
    OUTPUT = "the output t that is wanted for it"


@dataclass(frozen=True)
class HeldOut:
    """Held-out tokens: (x̂, t) by batch, inputs in the refined model and the outputs wanted for them."""

    pairs: list[tuple[torch.Tensor, torch.Tensor]]

    def error(self, weights: torch.Tensor) -> float:
        """‖x̂ W - t‖² / ‖t‖² for weights (n_in, n_out); NaN without tokens."""
        missed = sum(float((x @ weights - wanted).square().sum()) for x, wanted in self.pairs)
        size = sum(float(wanted.square().sum()) for _, wanted in self.pairs)
        return missed / size if size else float("nan")

    def best_share(self, original: torch.Tensor, step: torch.Tensor) -> float:
        """The share of `step`, from 0 to 1, that brings the weights `original` nearest to t."""
        gain, size = 0.0, 0.0
        for x, wanted in self.pairs:
            moved = x @ step
            gain += float((moved * (wanted - x @ original)).sum())
            size += float(moved.square().sum())
        return min(max(gain / size, 0.0), 1.0) if size else 0.0


class InputStatistics:
    """Running sums over tokens of one input x̂ of the refined layer.

    Args:
        linear: the first linear that is given it, with `n_out` outputs.
        pairing: what is summed up beside `moments`, Σ x̂ x̂ᵀ: nothing, Σ x̂ xᵀ (n_in, n_in) or Σ x̂ tᵀ (n_in, n_out).
    """

    def __init__(self, linear: Linear, n_out: int, pairing: Pairing, device: torch.device) -> None:
        self.linear, self.pairing = linear, pairing
        self.moments = Moments(linear.n_in, device)
        self._crossed: torch.Tensor | None = None
        if pairing is not Pairing.ITSELF:
            other = n_out if pairing is Pairing.OUTPUT else linear.n_in
            self._crossed = torch.zeros(linear.n_in, other, device=device)
        self._held_out: list[tuple[torch.Tensor, torch.Tensor]] = []

    def add(self, refined: torch.Tensor, other: torch.Tensor, *, held_out: bool) -> None:
        """Count tokens: inputs (tokens, n_in) of the refined layer, and what they are paired with."""
        if held_out:
            self._held_out.append((refined, other))
            return
        self.moments.add(refined)
        if self._crossed is not None:
            self._crossed.addmm_(refined.T, other)

    def wanted_for(self, weights: torch.Tensor) -> torch.Tensor | None:
        """E[x̂ tᵀ] for a linear with the original `weights` (n_in, n_out); None where it follows from x̂ alone."""
        if self._crossed is None:
            return None
        mean = self._crossed / max(self.moments.count, 1)
        return mean if self.pairing is Pairing.OUTPUT else mean @ weights

    def held_out(self, original: torch.Tensor) -> HeldOut:
        """The held-out tokens, for a linear with the original weights `original` (n_in, n_out)."""
        direct = self.pairing is Pairing.OUTPUT
        return HeldOut([(x, other if direct else other @ original) for x, other in self._held_out])

    @property
    def n_held_out(self) -> int:
        """Held-out tokens."""
        return sum(len(refined) for refined, _ in self._held_out)
