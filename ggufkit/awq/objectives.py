"""What scales are judged by, a layer at a time; and the objective of llama.cpp's own types."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Protocol

from torch import nn

from ggufkit.awq.archs import Fold
from ggufkit.awq.fold import Heads
from ggufkit.awq.search import FoldScales, QuantizationScheme, Quantizers, best_scales
from ggufkit.awq.targets import targets_of
from ggufkit.core.concurrency import worker_pool
from ggufkit.layers import HiddenStates, Linear, Moments, StreamedModel
from ggufkit.llama.libggml import LibGgml

VERSION = 5
_WIDEST_GRAM = 8192
_MOST_TOKENS = 1 << 14


@dataclass(frozen=True)
class CalibratedLayer:
    """One layer that has been run over all calibration samples: what an objective searches on.

    Args:
        layer: with its original weights.
        hidden: its input.
        moments: of the inputs of its linears, by `Linear.input`.
        tell: takes the fraction of the layer's search that is done.
    """

    model: StreamedModel
    index: int
    layer: nn.Module
    linears: Sequence[Linear]
    folds: Sequence[Fold]
    heads: Heads
    hidden: HiddenStates
    moments: Mapping[str, Moments]
    tell: Callable[[float], None]


class Objective(Protocol):
    """What scales are judged by."""

    @property
    def key(self) -> str:
        """Changes whenever its results may."""

    @property
    def widest_gram(self) -> int:
        """Inputs up to this width have x xᵀ accumulated, wider ones x² only."""

    @property
    def most_tokens(self) -> int:
        """As many of the calibration's tokens are enough for a dense model."""

    def search(self, work: CalibratedLayer) -> dict[str, dict[str, FoldScales]]:
        """The best scales of each of a layer's folds, by scheme and `Fold.source`."""


class GgmlObjective:
    """The output error under the types that llama-quantize will give the tensors.

    Args:
        schemes: each gets scales of its own, from one run over the samples.
        lib: the toolchain's quantizers.
        threads: candidates that are quantized at once.
    """

    def __init__(self, schemes: Sequence[QuantizationScheme], lib: LibGgml, threads: int) -> None:
        self._schemes = schemes
        self._lib = lib
        self._threads = threads

    @property
    def key(self) -> str:
        """The schemes in short."""
        described = [(s.name, s.importance, [sorted(t.items()) for t in s.types]) for s in self._schemes]
        return f"ggml {VERSION} {sha256(json.dumps(described).encode()).hexdigest()}"

    @property
    def widest_gram(self) -> int:
        """What memory and time allow: the matrix of a wider input costs more than the layer itself."""
        return _WIDEST_GRAM

    @property
    def most_tokens(self) -> int:
        """Twice as many as the widest of such inputs has channels; more move the scales by less than they matter."""
        return _MOST_TOKENS

    def search(self, work: CalibratedLayer) -> dict[str, dict[str, FoldScales]]:
        """Judge the candidates of each fold, for all schemes at once."""
        weights = {x.module: work.layer.get_parameter(f"{x.module}.weight").data for x in work.linears}
        found: dict[str, dict[str, FoldScales]] = {scheme.name: {} for scheme in self._schemes}
        with worker_pool(self._threads) as pool:
            quantizers = Quantizers(self._lib, pool)
            for number, fold in enumerate(work.folds, start=1):
                targets = targets_of(fold, weights, work.linears, work.moments)
                for name, best in best_scales(fold, targets, self._schemes, work.heads, quantizers).items():
                    found[name][fold.source] = best
                work.tell(number / len(work.folds))
        return found
