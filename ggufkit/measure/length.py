"""Whether a text is long enough: llama-perplexity evaluates two contexts at least."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ggufkit.core.errors import CorpusError
from ggufkit.llama import vocab
from ggufkit.steps.session import Session
from ggufkit.texts.corpus import Corpus

_LONG_TOKEN = 16
"""Bytes of text for each token that is wanted, of which every text has enough: it need not be tokenized."""


def is_ample(text: Corpus, contexts: Sequence[int]) -> bool:
    """Whether a text is long enough by far, or not there, or not rendered: that of a plan need not be."""
    return text.chats or not text.path.is_file() or text.n_bytes >= _LONG_TOKEN * 2 * max(contexts)


def require_two_contexts(gguf: Path, text: Corpus, contexts: Sequence[int], session: Session) -> None:
    """Refuse a text before anything is evaluated on it.

    Without llama.cpp's source, whose headers tell how to ask its tokenizer, only what no tokenizer could make longer.

    Raises:
        CorpusError: it has fewer tokens than two of the longest contexts.
    """
    longest = max(contexts)
    needed = 2 * longest
    if is_ample(text, contexts):
        return
    n_tokens, about = text.n_bytes + 1, "at most "  # a token is a byte at least, and one may be added
    if n_tokens >= needed and session.tools.source is not None:
        words = text.path.read_text(encoding="utf-8")
        how, marks = (session.tools.dir, session.tools.source, gguf, [words]), text.special
        ids = vocab.tokenize(*how, special=True, marks=marks)
        n_tokens, about = len(ids[0]), ""
    if n_tokens < needed:
        raise CorpusError(
            f"The text {text.path} is too short: it has {about}{n_tokens:,} tokens, and --ctx {longest} needs {needed:,}, "
            "two contexts.",
            hint="Give a longer text with --corpus, or a smaller --ctx.",
        )
