"""What is known of the input of some linears: its second moments, what it stands for in the original, held-out tokens."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from enum import Enum

import torch

from ggufkit.layers import Linear, Moments
from ggufkit.refine import kernels


class Pairing(Enum):
    """What an input x̂ of the refined model is set against."""

    ITSELF = "nothing else is known of its token in the original"
    INPUT = "the original's input x"
    OUTPUT = "the output t that is wanted for it"


@dataclass(frozen=True)
class HeldOut:
    """What held-out tokens tell of a linear, whose original weights W (n_in, n_out) miss t by r = t - x̂ W.

    Args:
        original: W.
        moments: Σ x̂ x̂ᵀ, (n_in, n_in).
        pull: Σ x̂ rᵀ, (n_in, n_out).
        missed, size: Σ ‖r‖², Σ ‖t‖².
    """

    original: torch.Tensor
    moments: torch.Tensor
    pull: torch.Tensor
    missed: float
    size: float

    def error(self, weights: torch.Tensor) -> float:
        """‖x̂ W - t‖² / ‖t‖² for weights (n_in, n_out); NaN without tokens."""
        step = weights - self.original
        rest = float((step * (self.moments @ step)).sum()) - 2 * float((step * self.pull).sum()) + self.missed
        return rest / self.size if self.size else float("nan")

    def best_share(self, step: torch.Tensor) -> float:
        """The share of `step`, from 0 to 1, that brings the original weights nearest to t."""
        gain, size = float((step * self.pull).sum()), float((step * (self.moments @ step)).sum())
        return min(max(gain / size, 0.0), 1.0) if size else 0.0


@dataclass(frozen=True)
class _Lost:
    """Over held-out tokens, of which the refined model is given x̂ for x: of l = x - x̂ Σ l lᵀ and Σ x̂ lᵀ; and Σ x xᵀ."""

    itself: torch.Tensor
    crossed: torch.Tensor
    wanted: torch.Tensor


class InputStatistics:
    """Running sums over tokens of one input x̂ of the refined layer.

    Args:
        linear: the first linear that is given it, with `n_out` outputs.
        pairing: what is summed up beside `moments`, Σ x̂ x̂ᵀ: nothing, Σ x̂ xᵀ (n_in, n_in) or Σ x̂ tᵀ (n_in, n_out).
    """

    def __init__(self, linear: Linear, n_out: int, pairing: Pairing, device: torch.device) -> None:
        self.linear, self.pairing = linear, pairing
        self._do = kernels.of(device)
        self.moments = Moments(linear.n_in, device, add_gram=self._do.add_gram)
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
            self._do.add_products(self._crossed, refined, other)

    def wanted_for(self, weights: torch.Tensor) -> torch.Tensor | None:
        """E[x̂ tᵀ] for a linear with the original `weights` (n_in, n_out); None where it follows from x̂ alone."""
        if self._crossed is None:
            return None
        mean = self._crossed / max(self.moments.count, 1)
        return mean if self.pairing is Pairing.OUTPUT else mean @ weights

    def held_out(self, original: torch.Tensor) -> HeldOut:
        """What the held-out tokens tell of a linear with the original weights `original` (n_in, n_out)."""
        if self.pairing is Pairing.OUTPUT:
            pull, missed, size = torch.zeros_like(original), 0.0, 0.0
            for x, wanted in self._held_out:
                rest = wanted - x @ original
                self._do.add_products(pull, x, rest)
                missed, size = missed + float(rest.square().sum()), size + float(wanted.square().sum())
            return HeldOut(original, self._held_out_gram, pull, missed, size)
        lost = self._lost
        missed, size = (float((original * (m @ original)).sum()) for m in (lost.itself, lost.wanted))
        return HeldOut(original, self._held_out_gram, lost.crossed @ original, missed, size)

    @functools.cached_property
    def _held_out_gram(self) -> torch.Tensor:
        """Σ x̂ x̂ᵀ over held-out tokens."""
        sums = self._moments()
        for x, _ in self._held_out:
            sums.add(x)
        return sums.total()

    @functools.cached_property
    def _lost(self) -> _Lost:
        itself, wanted, crossed = self._moments(), self._moments(), torch.zeros_like(self.moments.gram)
        for x, other in self._held_out:
            itself.add(other - x)
            wanted.add(other)
            self._do.add_products(crossed, x, other - x)
        return _Lost(itself.total(), crossed, wanted.total())

    def _moments(self) -> Moments:
        return Moments(self.linear.n_in, self.moments.gram.device, add_gram=self._do.add_gram)

    @property
    def n_held_out(self) -> int:
        """Held-out tokens."""
        return sum(len(refined) for refined, _ in self._held_out)
