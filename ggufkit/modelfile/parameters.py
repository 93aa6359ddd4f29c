"""PARAMETER lines: where to stop, how to sample, how much context."""

from __future__ import annotations

import re

from ggufkit.modelfile.learn import Shape
from ggufkit.modelfile.metadata import ChatMeta
from ggufkit.modelfile.placeholders import is_placeholder

DEFAULT_CONTEXT = 8192
_LEAST_CONTEXT = 512
_MEMORY_SHARE = 0.8
_WHOLE = ("top_k", "repeat_last_n")
_TOKEN = re.compile(r"<[^<>\s]{1,60}>|\[/?[A-Z_]{2,40}\]")

Parameter = tuple[str, str | int | float]


def stop_strings(meta: ChatMeta, shape: Shape | None = None) -> tuple[str, ...]:
    """What ends an answer: the model's end tokens, the token that its template puts behind an answer, or, where no
    token does, the first line of what follows an answer.

    Nothing that a model may write within an answer is made a stop, as that would cut answers short.
    """
    stops = list(meta.end_tokens)
    if shape is not None:
        after = _literal(shape.after_answer)
        tokens = [t for t in _TOKEN.findall(_literal(shape.answer_end)) if _is_token(t, meta)]
        stops += tokens[:1]
        lines = [line.strip() for line in after.splitlines() if line.strip()]
        if lines and not any(stop in after for stop in stops):
            stops.append(lines[0])
    return tuple(dict.fromkeys(s for s in stops if s.strip() and s.isprintable()))


def _literal(text: str) -> str:
    """The text up to the first placeholder."""
    return next((text[:i] for i, c in enumerate(text) if is_placeholder(c)), text)


def _is_token(text: str, meta: ChatMeta) -> bool:
    return text in meta.special_tokens if meta.special_tokens else True


def context_length(
    meta: ChatMeta, file_bytes: int, memory_bytes: int | None, wanted: int = DEFAULT_CONTEXT
) -> int | None:
    """Tokens of context: what is wanted, bounded by the model and by the memory left beside its weights.

    Args:
        memory_bytes: memory of the machine; None if it is not to bound anything.

    Returns None where neither the model nor the memory says anything.
    """
    bounds = [meta.context_length] if meta.context_length else []
    if memory_bytes is not None and meta.kv_bytes_per_token:
        room = int(memory_bytes * _MEMORY_SHARE) - file_bytes
        bounds.append(max(_LEAST_CONTEXT, room // meta.kv_bytes_per_token // 256 * 256))
    return min([wanted, *bounds]) if bounds else None


def parameters(meta: ChatMeta, shape: Shape | None, num_ctx: int | None) -> tuple[Parameter, ...]:
    """All PARAMETER lines of a model."""
    sampling: list[Parameter] = [(n, int(v) if n in _WHOLE else v) for n, v in meta.sampling.items()]
    context: list[Parameter] = [("num_ctx", num_ctx)] if num_ctx else []
    return (*context, *sampling, *(("stop", stop) for stop in stop_strings(meta, shape)))
