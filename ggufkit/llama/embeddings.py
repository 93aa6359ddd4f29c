"""What llama-embedding prints -> vectors. Pure functions."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import partial

from ggufkit.core.errors import ToolOutputError
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


def cosine(one: Sequence[float], other: Sequence[float]) -> float:
    """Cosine similarity, -1 to 1; 0 where one of them is all zeros."""
    norms = math.hypot(*one) * math.hypot(*other)
    return max(-1.0, min(1.0, math.fsum(a * b for a, b in zip(one, other, strict=True)) / norms)) if norms else 0.0
