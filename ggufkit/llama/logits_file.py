"""Logits as llama-perplexity writes them with `--save-all-logits`: tokens, and the predictions for the scored half.

What the tool prints can be lost when it ends soon; this file is whole when the tool has ended well.
Source: `tools/perplexity/perplexity.cpp`, `log_softmax`: 16 bits a logit, clipped at 16 nats below the largest.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ggufkit.core.errors import ToolOutputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAGIC = b"_logits_"
CLIP = 16.0
"""Nats below the largest logit of a position; what is below is written as that."""

_HEAD = struct.Struct("<8siii")


@dataclass(frozen=True)
class SavedLogits:
    """The first chunk of a logits file.

    Args:
        tokens: (n_ctx,) ids; a model that wants a BOS token gets it in place of the first.
        first: position of the first prediction.
        log_probs: (n_ctx - 1 - first, n_vocab) natural logarithms of probabilities, in float32.
    """

    tokens: tuple[int, ...]
    first: int
    log_probs: NDArray[np.float32]

    @property
    def is_finite(self) -> bool:
        """Whether all of it are numbers: one logit that is none spoils the sum of its position."""
        import numpy as np

        return bool(np.isfinite(self.log_probs).all())


def read_logits(path: Path) -> SavedLogits | None:
    """Read the first chunk; None where the text was too short for one.

    Raises:
        ToolOutputError: the file is not there, not whole, or something else.
    """
    import numpy as np

    data = path.read_bytes() if path.is_file() else b""
    if data[:8] == MAGIC and len(data) < _HEAD.size:
        return None
    if data[:8] != MAGIC:
        raise ToolOutputError("llama-perplexity wrote no logits.")
    _, n_ctx, n_vocab, n_chunks = _HEAD.unpack_from(data)
    first = n_ctx // 2
    n_rows, width = n_ctx - 1 - first, 2 * ((n_vocab + 1) // 2) + 4
    start = _HEAD.size + 4 * n_ctx * n_chunks
    if n_chunks < 1 or len(data) < start + 2 * n_rows * width:
        raise ToolOutputError("llama-perplexity's logits are not whole.")
    tokens = np.frombuffer(data, "<i4", n_ctx, _HEAD.size)
    rows = np.frombuffer(data, "<u2", n_rows * width, start).reshape(n_rows, width)
    scale_and_least = rows[:, :4].copy().view("<f4")
    values = rows[:, 4 : 4 + n_vocab].astype(np.float32) * scale_and_least[:, :1] + scale_and_least[:, 1:]
    return SavedLogits(tuple(int(t) for t in tokens), first, values)
