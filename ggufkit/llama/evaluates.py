"""Which models llama-perplexity can evaluate: those that predict the next token of a text."""

from __future__ import annotations

from ggufkit.llama.gguf import GgufHeader

_ENCODERS = ("clip", "gemma-embedding", "t5", "t5encoder", "wavtokenizer-dec")
"""Architectures that predict no next token by themselves, without a key that says so."""


def generates(header: GgufHeader) -> bool:
    """Whether an architecture predicts the next token; an encoder gives embeddings."""
    arch = header.architecture
    causal = header.metadata.get(f"{arch}.attention.causal", True)
    return bool(causal) and arch not in _ENCODERS and "bert" not in arch


def reads_text(header: GgufHeader) -> bool:
    """Whether a file has a vocabulary that text can be tokenized with, as llama-perplexity does: without EOS behind."""
    kind = header.metadata.get("tokenizer.ggml.model", "none")
    return kind not in ("none", "no_vocab") and header.metadata.get("tokenizer.ggml.add_eos_token") is not True
