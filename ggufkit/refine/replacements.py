"""What becomes of a quantized file's tensors: new blocks for some matrices, new values for some vectors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ggufkit.core.records import Tensor
from ggufkit.refine.fields import U8
from ggufkit.refine.state import Outcome, State
from ggufkit.refine.tensors import Pair


@dataclass(frozen=True)
class Replacements:
    """The new bytes of tensors of which at least one matrix is better, and of vectors that were tuned.

    Args:
        outcomes: of the matrices in `state`.
        vectors: new values by the GGUF's tensor.
        blocks: of tensors that were learnt whole, after that.
    """

    pair: Pair
    state: State
    outcomes: Sequence[Outcome]
    vectors: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    blocks: Mapping[str, U8] = field(default_factory=dict)

    def __call__(self, tensor: Tensor) -> bytes | None:
        """The tensor's new bytes; None if it stays."""
        if tensor.name in self.vectors:
            return self.vectors[tensor.name].tobytes()
        if tensor.name in self.blocks:
            return self.blocks[tensor.name].tobytes()
        kept = [o for o in self.outcomes if o.kept and o.tensor == tensor.name]
        if not kept:
            return None
        slices = [self.pair.raw(tensor.name, i) for i in range(math.prod(tensor.shape[2:]))]
        for outcome in kept:
            done = self.state.load(tensor.name, outcome.expert)
            if done is not None:
                slices[outcome.expert or 0] = done[1]
        return b"".join(s.tobytes() for s in slices)
