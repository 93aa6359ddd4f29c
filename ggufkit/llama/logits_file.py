"""Logits as llama-perplexity writes them with `--save-all-logits`: tokens, and the predictions for the scored half.

What the tool prints can be lost when it ends soon; this file is whole when the tool has ended well.
Source: `tools/perplexity/perplexity.cpp`, `log_softmax`: 16 bits a logit, clipped at 16 nats below the largest.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

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


@dataclass(frozen=True)
class SavedRows:
    """What a base predicts at `n_rows` positions of one chunk, as it is saved.

    Args:
        codes: (n_rows, n_vocab) whole numbers, in float32; `codes * scale + least` are natural logarithms of probabilities.
        scale, least: (n_rows, 1) float32.
    """

    codes: NDArray[np.float32]
    scale: NDArray[np.float32]
    least: NDArray[np.float32]


@dataclass(frozen=True)
class LogitsStream:
    """Logits of all chunks, one chunk in memory at a time.

    Args:
        tokens: (n_chunks, n_ctx) ids of the text, without the BOS that takes the first one's place.
    """

    n_ctx: int
    n_vocab: int
    tokens: NDArray[np.int32]
    stream: BinaryIO

    @property
    def first(self) -> int:
        """Position of the first prediction of a chunk that is scored; the last is that before the chunk's last token."""
        return self.n_ctx // 2

    def chunks(self, most_rows: int) -> Iterator[Iterator[SavedRows]]:
        """The predictions of each chunk, so many rows at a time; all of a chunk are to be read before the next."""
        for _ in self.tokens:
            yield self._rows(most_rows)

    def _rows(self, most_rows: int) -> Iterator[SavedRows]:
        import numpy as np

        width, left = 2 * ((self.n_vocab + 1) // 2) + 4, self.n_ctx - 1 - self.first
        while left:
            n_rows = min(left, most_rows)
            rows = np.frombuffer(_exactly(self.stream, 2 * n_rows * width), "<u2").reshape(n_rows, width)
            scale_and_least = rows[:, :4].copy().view("<f4")
            codes = rows[:, 4 : 4 + self.n_vocab].astype(np.float32)
            yield SavedRows(codes, scale_and_least[:, :1], scale_and_least[:, 1:])
            left -= n_rows


@contextlib.contextmanager
def open_logits(path: Path) -> Iterator[LogitsStream]:
    """Read logits from a file, or from a named pipe while they are written.

    Raises:
        ToolOutputError: they are not whole, or something else.
    """
    import numpy as np

    with path.open("rb") as stream:
        magic, n_ctx, n_vocab, n_chunks = _HEAD.unpack(_exactly(stream, _HEAD.size))
        if magic != MAGIC or min(n_ctx, n_vocab, n_chunks) < 1:
            raise ToolOutputError("llama-perplexity wrote no logits.")
        tokens = np.frombuffer(_exactly(stream, 4 * n_ctx * n_chunks), "<i4").reshape(n_chunks, n_ctx)
        yield LogitsStream(n_ctx, n_vocab, tokens, stream)


def _exactly(stream: BinaryIO, n_bytes: int) -> bytes:
    data = stream.read(n_bytes)
    if len(data) < n_bytes:
        raise ToolOutputError("llama-perplexity's logits are not whole.")
    return data
