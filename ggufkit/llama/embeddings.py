"""What llama-embedding prints -> vectors."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable, Sequence
from functools import partial

from ggufkit.core.errors import GgufError, ToolOutputError
from ggufkit.core.jsonfile import parse_json
from ggufkit.core.process import ToolOutput

Vector = list[float]
_NO_NUMBER = re.compile(r"-?\b(?:nan|inf)\b")


def parse_embeddings(output: ToolOutput) -> list[Vector]:
    """Read the embeddings that llama-embedding printed as a JSON list; what is no number is NaN.

    Raises:
        ToolOutputError: it printed something else, or embeddings of several lengths.
    Source: `examples/embedding/embedding.cpp`, "array".
    """
    odd = partial(ToolOutputError, log=output.log)
    text, hint = output.stdout.strip(), "See the log."
    if _NO_NUMBER.search(text):
        return [[math.nan]]
    found = parse_json(text, list[Vector], "What llama-embedding printed", odd, hint=hint)
    if not found or not found[0] or len({len(vector) for vector in found}) != 1:
        raise ToolOutputError("llama-embedding printed no embeddings of one length.", hint=hint, log=output.log)
    return found


ROOM = 512
"""Tokens that llama-embedding takes at once: several texts. It gives up with fewer than sequences are possible, 256."""
ATTEMPTS = 3
"""A llama-embedding that ggufkit did not compile may lose the end of its output, as llama-perplexity does."""


def require_finite(run: Callable[[], ToolOutput], name: str) -> tuple[ToolOutput, list[Vector]]:
    """Run llama-embedding, once more where its output is cut, and require embeddings that are numbers.

    Args:
        name: what the file is called.

    Raises:
        GgufError: they are no numbers.
        ToolOutputError: it printed no embeddings, however often.
    """
    for _ in range(ATTEMPTS - 1):
        with contextlib.suppress(ToolOutputError):
            return _finite(run(), name)
    return _finite(run(), name)


def _finite(done: ToolOutput, name: str) -> tuple[ToolOutput, list[Vector]]:
    vectors = parse_embeddings(done)
    if not all(math.isfinite(value) for vector in vectors for value in vector):
        hint = "Its weights hold NaN or infinite values, or its configuration is damaged."
        raise GgufError(f"llama.cpp computes no finite embeddings with {name}.", hint=hint, log=done.log)
    return done, vectors


def cosine(one: Sequence[float], other: Sequence[float]) -> float:
    """Cosine similarity, -1 to 1; 0 where one of them is all zeros."""
    norms = math.hypot(*one) * math.hypot(*other)
    return max(-1.0, min(1.0, math.fsum(a * b for a, b in zip(one, other, strict=True)) / norms)) if norms else 0.0
