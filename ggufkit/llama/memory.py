"""What llama.cpp needs of memory and disk for a model, in bytes, from the model's header. Pure functions."""

from __future__ import annotations

from ggufkit.core.records import F16
from ggufkit.llama import mtp
from ggufkit.llama.gguf import GgufHeader
from ggufkit.llama.kv_cache import head_widths, instead_of_f16

GPU_BATCH = 1024
"""Tokens that a GPU evaluates at once."""

BATCH = 2048
"""Tokens that llama-perplexity reads at once by itself: chunks of a shorter context go together."""

_UBATCH = 512
_OVERHEAD = 8 << 20
_CUDA = 1 << 30


def n_vocab(header: GgufHeader) -> int:
    """Entries of the vocabulary."""
    embedding = header.by_name.get("token_embd.weight")
    return embedding.shape[-1] if embedding is not None else 0


def kv_bytes(header: GgufHeader, n_tokens: int, kv_type: str = F16) -> int:
    """A KV cache of a type for `n_tokens` tokens."""
    kv_heads = header.hparam("attention.head_count_kv", header.hparam("attention.head_count", 1))
    n_layers = len(mtp.layers(header)) if mtp.drafts_alone(header) else header.hparam("block_count")
    in_f16 = n_layers * kv_heads * sum(head_widths(header)) * 2 * n_tokens
    return instead_of_f16(in_f16, kv_type)


def compute_line(header: GgufHeader) -> tuple[int, int]:
    """llama.cpp's compute buffers for one sequence: bytes whatever the context, and bytes for each token of it.

    A batch's logits or its widest activations, and the attention mask; flash attention is on by default. An
    estimate from above.
    """
    width, inner = header.hparam("embedding_length"), header.hparam("feed_forward_length")
    activations = _UBATCH * max(n_vocab(header) + width, 3 * inner + 2 * width) * 4
    return activations + _OVERHEAD, _UBATCH * 4


def evaluation_ram(header: GgufHeader, n_bytes: int, n_ctx: int, kv_type: str = F16) -> int:
    """llama-perplexity on a file of `n_bytes`: weights, KV cache, logits, compute buffers.

    On a GPU the logits are the host's, and its compute buffers are those of `GPU_BATCH` tokens: no more in all.
    """
    tokens = max(BATCH, n_ctx)
    fixed, per_token = compute_line(header)
    return (
        n_bytes + kv_bytes(header, tokens, kv_type) + _logits(header, tokens, n_ctx) + fixed + per_token * tokens
    )


def ram_beside_gpu(header: GgufHeader, n_ctx: int) -> int:
    """The machine's own memory for llama-perplexity where a GPU holds the model: the logits, and CUDA."""
    return _logits(header, max(GPU_BATCH, n_ctx), n_ctx) + _CUDA


def _logits(header: GgufHeader, n_tokens: int, n_ctx: int) -> int:
    """The scored half of a batch's logits, and the base's of one context in 16 bits, on their way out."""
    return n_tokens // 2 * n_vocab(header) * 4 + n_ctx * n_vocab(header) * 2


def base_logits(header: GgufHeader, n_ctx: int) -> tuple[int, int]:
    """The base's logits file: bytes of its head, and bytes for each chunk (tokens, and the scored half)."""
    return logits_of(n_vocab(header), n_ctx)


def logits_of(n_vocab: int, n_ctx: int) -> tuple[int, int]:
    """The same, of a base with so many tokens in its vocabulary."""
    row = 2 * (2 * ((n_vocab + 1) // 2) + 4)
    return 20, n_ctx * 4 + (n_ctx - 1 - n_ctx // 2) * row
