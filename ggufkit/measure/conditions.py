"""Under which conditions files are measured: texts, contexts, types of KV caches. The first of each is the table's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil

from ggufkit.core.records import F16, GgufFile
from ggufkit.steps.session import Session
from ggufkit.texts.corpus import Corpus

_FEWEST = 2
"""Chunks that llama-perplexity evaluates at least."""


@dataclass(frozen=True)
class Setting:
    """A text and a context in tokens: one pass of the base is compared with all files, with each type of KV cache.

    Args:
        n_chunks: how many chunks of that context are evaluated, None for all of the text.
        kv_types: those that are measured besides F16.
        is_first: whether the table of results is of it; what is measured in others is kept apart.
    """

    text: Corpus
    n_ctx: int
    n_chunks: int | None = None
    kv_types: tuple[str, ...] = ()
    is_first: bool = True

    def session(self, whole: Session) -> Session:
        """The session of a command as it measures in this setting."""
        name = "" if self.is_first else f"{self.text.sha256[:12]}-{self.n_ctx}"
        return replace(whole, workspace=replace(whole.workspace, setting=name))

    def runs(self, base: GgufFile, files: Sequence[GgufFile]) -> list[GgufFile]:
        """What is compared with the base: the files; then it and they with each other type of KV cache."""
        return [*files, *with_caches([base, *files], self.kv_types)]


def settings(
    texts: Sequence[Corpus], contexts: Sequence[int], n_chunks: int | None = None, kv_types: Sequence[str] = ()
) -> list[Setting]:
    """All settings, the first one first: the first text in each context, with each type of KV cache; then each further text
    in the first context. What changes is one thing at a time, and the number of passes a sum, no product.

    Args:
        n_chunks: of the first context. In each other one as much text is evaluated, two chunks at least.
    """
    (text, *further), first = texts, contexts[0]
    counts = [None if n_chunks is None else max(_FEWEST, ceil(n_chunks * first / n_ctx)) for n_ctx in contexts]
    counts[0] = n_chunks
    longer = [
        Setting(text, n_ctx, count, tuple(kv_types), n_ctx == first)
        for n_ctx, count in zip(contexts, counts, strict=True)
    ]
    return [*longer, *(Setting(other, first, n_chunks, is_first=False) for other in further)]


def with_caches(files: Sequence[GgufFile], kv_types: Sequence[str]) -> list[GgufFile]:
    """Files as they run with each type of KV cache besides F16."""
    return [replace(file, kv_type=kind) for kind in kv_types if kind != F16 for file in files]
