"""Which models llama-perplexity can evaluate: those that predict the next token of a text."""

from __future__ import annotations

from pathlib import Path

from ggufkit.core.errors import InputError
from ggufkit.llama.gguf import GgufHeader, read_header

_ENCODERS = ("clip", "gemma-embedding", "t5", "t5encoder", "wavtokenizer-dec")
"""Architectures that predict no next token by themselves, without a key that says so."""


PRE = "tokenizer.ggml.pre"
_ADD_EOS = "tokenizer.ggml.add_eos_token"
_POOLED = (1, 2, 3)
"""llama.cpp's numbers for mean, CLS and last token: one embedding for a text. 0 is one for each token, 4 is a rank."""


def embeds(header: GgufHeader) -> bool:
    """Whether a model is for embeddings: an encoder, or a decoder that says how its embeddings are pooled."""
    return not generates(header) or is_pooled(header)


def is_encoder_of_text(header: GgufHeader) -> bool:
    """Whether llama-embedding gives embeddings of text with a file that predicts no next token."""
    arch, kind = header.architecture, header.metadata.get("tokenizer.ggml.model", "none")
    return (
        kind not in ("none", "no_vocab")
        and not generates(header)
        and ("bert" in arch or arch == "gemma-embedding")
    )


def is_pooled(header: GgufHeader) -> bool:
    """Whether a file says how the embeddings of a text's tokens become one."""
    return header.metadata.get(f"{header.architecture}.pooling_type") in _POOLED


def generates(header: GgufHeader) -> bool:
    """Whether an architecture predicts the next token; an encoder gives embeddings."""
    arch = header.architecture
    causal = header.metadata.get(f"{arch}.attention.causal", True)
    return bool(causal) and arch not in _ENCODERS and "bert" not in arch


def require_generates(file: Path, vain: str, hint: str, *, name: str | None = None) -> None:
    """Raise InputError where a file (called `name`) predicts no next token, with what is in `vain` then."""
    header = read_header(file)
    if not generates(header):
        message = (
            f"{name or file.name} is an encoder ({header.architecture}): it gives embeddings of texts, and {vain}."
        )
        raise InputError(message, hint=hint)


def reads_text(header: GgufHeader) -> bool:
    """Whether a file has a vocabulary that text can be tokenized with."""
    return header.metadata.get("tokenizer.ggml.model", "none") not in ("none", "no_vocab")


def guesses_splitting(header: GgufHeader) -> bool:
    """Whether llama.cpp has to guess how a BPE's text is split: files of before May 2024 do not say it."""
    return header.metadata.get("tokenizer.ggml.model") == "gpt2" and PRE not in header.metadata


def overrides(file: Path) -> list[str]:
    """What llama-perplexity and llama-imatrix are told of a file whose tokenizer ends each text with EOS.

    They give up on it; a text is one from its start to its end, and is cut into chunks.
    """
    ends = read_header(file).metadata.get(_ADD_EOS) is True
    return ["--override-kv", f"{_ADD_EOS}=bool:false"] if ends else []
