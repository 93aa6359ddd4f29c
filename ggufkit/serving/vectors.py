"""What clients expect of a model that gives embeddings."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from math import isfinite, sqrt

from ggufkit.serving.asking import CLIENTS, QUESTIONS, Asked, Outcome, require


def _embeddings(asked: Asked) -> Outcome:
    texts = ["A llama eats grass.", "A llama eats grass.", "Shares fell on Monday."]
    begun = time.perf_counter()
    made = asked.client.embeddings.create(model=asked.endpoint.model, input=texts, encoding_format="float")
    seconds = time.perf_counter() - begun
    first, same, other = (one.embedding for one in made.data)
    require(all(map(isfinite, (*first, *same, *other))), "an embedding has values that are no numbers")
    require(len(first) == len(other) > 0, "two texts have embeddings of different lengths")
    alike, unlike = _cosine(first, same), _cosine(first, other)
    require(alike > 0.999, f"the same text has embeddings with a cosine of {alike:.4f}")
    require(unlike < alike, "two texts have the same embedding")
    said = f"{len(first)} values; cosine of another text {unlike:.3f}"
    return Outcome("embeddings", True, said, made.usage.prompt_tokens / seconds)


def _together(asked: Asked) -> Outcome:
    def embed(text: str) -> int:
        made = asked.client.embeddings.create(model=asked.endpoint.model, input=text, encoding_format="float")
        return int(made.usage.prompt_tokens)

    begun = time.perf_counter()
    with ThreadPoolExecutor(CLIENTS) as pool:
        tokens = sum(pool.map(embed, QUESTIONS))
    seconds = time.perf_counter() - begun
    return Outcome("together", True, f"{CLIENTS} clients at once, all answered", tokens / seconds)


def _cosine(a: Sequence[float], b: Sequence[float]) -> float:
    product = sum(x * y for x, y in zip(a, b, strict=True))
    return product / sqrt(sum(x * x for x in a) * sum(y * y for y in b))


EMBEDDING: dict[str, Callable[[Asked], Outcome]] = {"embeddings": _embeddings, "together": _together}
"""Each check by its name."""
