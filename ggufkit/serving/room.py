"""The context of a served model, and the type of its KV cache: as large, and as exact, as memory allows. Pure functions."""

from __future__ import annotations

from dataclasses import dataclass

from ggufkit.core.errors import ResourceError
from ggufkit.core.records import F16
from ggufkit.core.units import size
from ggufkit.llama import memory
from ggufkit.llama.evaluates import generates
from ggufkit.llama.gguf import GgufHeader, ggml_type_by_name
from ggufkit.llama.kv_cache import head_widths

_SMALLER = "q8_0"
_ENOUGH = 8192
"""Tokens of context that are worth more than exact keys and values."""
_LEAST = 512
_SHARE = 0.8
"""Of the free memory: others on the machine need some, too."""


@dataclass(frozen=True)
class Cache:
    """What the server keeps of texts: `n_ctx` tokens for all that it answers at once, in `n_bytes`.

    `fits` is false where that and the weights need more than the memory that is free. What drafts takes `draft_bytes`: its
    weights, and what it keeps of as many tokens.
    """

    n_ctx: int
    kv_type: str
    n_bytes: int
    fits: bool = True
    draft_bytes: int = 0


def choose(
    header: GgufHeader,
    free: int,
    n_ctx: int | None = None,
    kv_type: str | None = None,
    draft: GgufHeader | None = None,
) -> Cache:
    """The cache for a model on a machine with so many free bytes.

    The model's own context if it fits, with keys and values in F16, or in Q8_0 where F16 leaves less than 8192 tokens.

    Args:
        n_ctx: so many tokens, whether they fit or not.
        kv_type: keys and values in this type.
        draft: a model that guesses what this one verifies; its own keys and values are in F16.

    Raises:
        ResourceError: not even 512 tokens fit.
    """
    pair = _Pair(header, draft, int(_SHARE * free))
    trained = header.hparam("context_length") or _ENOUGH
    kinds = [kv_type] if kv_type is not None else [F16, _SMALLER] if _takes_blocks(header) else [F16]
    if n_ctx is not None:
        tried = [pair.cache(n_ctx, kind) for kind in kinds]
        return next((cache for cache in tried if cache.fits), tried[0])
    found = [_largest(pair, trained, kind) for kind in kinds]
    enough = (cache for cache in found if cache is not None and cache.n_ctx >= min(trained, _ENOUGH))
    cache = next(enough, None) or max(filter(None, found), key=lambda c: c.n_ctx, default=None)
    if cache is None:
        least = pair.cache(min(trained, _LEAST), kinds[-1])
        need = header.size_bytes + least.n_bytes + _computing(header, least.n_ctx) + least.draft_bytes
        what = header.path.name if draft is None else f"{header.path.name} with {draft.path.name}"
        message = f"{what} needs {size(need)} of memory for {least.n_ctx} tokens; {size(free)} are free."
        smaller = "Close other programs, or serve a smaller type of the model"
        raise ResourceError(message, hint=f"{smaller}." if draft is None else f"{smaller}, or without the draft.")
    return cache


@dataclass(frozen=True)
class _Pair:
    """A model, what drafts for it, and the bytes that both may take."""

    header: GgufHeader
    draft: GgufHeader | None
    room: int

    def cache(self, n_ctx: int, kind: str) -> Cache:
        """What is kept of so many tokens."""
        n_bytes, beside = _kept(self.header, n_ctx, kind), 0
        if self.draft is not None:
            beside = self.draft.size_bytes + _kept(self.draft, n_ctx, F16) + _computing(self.draft, n_ctx)
        whole = self.header.size_bytes + n_bytes + _computing(self.header, n_ctx) + beside
        return Cache(n_ctx, kind, n_bytes, whole <= self.room, beside)


def _largest(pair: _Pair, trained: int, kind: str) -> Cache | None:
    """The largest context that fits: the trained one, or a power of two below it."""
    powers = [1 << n for n in range(_LEAST.bit_length() - 1, trained.bit_length()) if 1 << n < trained]
    tried = (pair.cache(n, kind) for n in (trained, *reversed(powers)))
    return next((cache for cache in tried if cache.fits), None)


def _computing(header: GgufHeader, n_ctx: int) -> int:
    fixed, per_token = memory.compute_line(header)
    return fixed + per_token * n_ctx


def _kept(header: GgufHeader, n_ctx: int, kind: str) -> int:
    """Bytes of the KV cache for so many tokens; an encoder has none."""
    return memory.kv_bytes(header, n_ctx, kind) if generates(header) else 0


def _takes_blocks(header: GgufHeader) -> bool:
    """Whether keys and values of a head divide into blocks of the smaller type."""
    block, _ = ggml_type_by_name(_SMALLER.upper())
    return all(width and width % block == 0 for width in head_widths(header))
