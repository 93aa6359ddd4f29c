"""What llama.cpp needs of memory and disk for a model, in bytes, from the model's header. Pure functions."""

from __future__ import annotations

from ggufkit.llama.gguf import GgufHeader

GPU_BATCH = 1024
"""Tokens that a GPU evaluates at once."""

_EVAL_TOKENS = 2048
_UBATCH = 512
_OVERHEAD = 8 << 20
_CUDA = 1 << 30


def n_vocab(header: GgufHeader) -> int:
    """Entries of the vocabulary."""
    embedding = header.by_name.get("token_embd.weight")
    return embedding.shape[-1] if embedding is not None else 0


def kv_bytes(header: GgufHeader, n_tokens: int) -> int:
    """An F16 KV cache for `n_tokens` tokens."""
    heads = header.hparam("attention.head_count", 1)
    kv_heads = header.hparam("attention.head_count_kv", heads)
    per_head = header.hparam("embedding_length") // max(heads, 1)
    width = header.hparam("attention.key_length", per_head) + header.hparam("attention.value_length", per_head)
    return header.hparam("block_count") * kv_heads * width * 2 * n_tokens


def compute_line(header: GgufHeader) -> tuple[int, int]:
    """llama.cpp's compute buffers for one sequence: bytes whatever the context, and bytes for each token of it.

    A batch's logits or its widest activations, and the attention mask; flash attention is on by default. An
    estimate from above.
    """
    width, inner = header.hparam("embedding_length"), header.hparam("feed_forward_length")
    activations = _UBATCH * max(n_vocab(header) + width, 3 * inner + 2 * width) * 4
    return activations + _OVERHEAD, _UBATCH * 4


def evaluation_ram(header: GgufHeader, n_bytes: int, n_ctx: int) -> int:
    """llama-perplexity on a file of `n_bytes`: weights, KV cache, the logits of one batch, compute buffers.

    On a GPU the logits are the host's, and its compute buffers are those of `GPU_BATCH` tokens: no more in all.
    """
    tokens = max(_EVAL_TOKENS, n_ctx)
    fixed, per_token = compute_line(header)
    return n_bytes + kv_bytes(header, tokens) + _logits(header, tokens) + fixed + per_token * tokens


def ram_beside_gpu(header: GgufHeader, n_ctx: int) -> int:
    """The machine's own memory for llama-perplexity where a GPU holds the model: the logits of one batch, and CUDA."""
    return _logits(header, max(GPU_BATCH, n_ctx)) + _CUDA


def _logits(header: GgufHeader, n_tokens: int) -> int:
    """The scored half of a batch's logits."""
    return n_tokens // 2 * n_vocab(header) * 4


def base_logits(header: GgufHeader, n_ctx: int) -> tuple[int, int]:
    """The base's logits file: bytes of its head, and bytes for each chunk (tokens, and the scored half)."""
    row = 2 * (2 * ((n_vocab(header) + 1) // 2) + 4)
    return 20, n_ctx * 4 + (n_ctx - 1 - n_ctx // 2) * row
