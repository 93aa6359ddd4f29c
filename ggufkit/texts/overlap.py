"""Whether calibration text occurs in the evaluation text: then the numbers flatter what was calibrated on it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ggufkit.core.errors import TokenizerError
from ggufkit.core.progress import Reporter
from ggufkit.core.records import Checkpoint, GgufFile
from ggufkit.texts.calibration import Calibration, Tokenizer, load_tokenizer, overlapping_windows, read_texts
from ggufkit.texts.corpus import Corpus

WINDOW = 64
_CHARS_PER_TOKEN = 16


class _Words:
    """Words as tokens, where there is no checkpoint to take a tokenizer from."""

    def __init__(self) -> None:
        self.bos: int | None = None
        self.n_vocab = 0
        self._ids: dict[str, int] = {}

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """A number for each word of each text."""
        return [[self._ids.setdefault(word, len(self._ids)) for word in text.split()] for text in texts]


def warn_of_overlap(
    calibration: Corpus,
    evaluation: Corpus,
    model: Checkpoint | GgufFile,
    n_tokens: int,
    drawn: Calibration | None,
    reporter: Reporter,
) -> int:
    """Say so if any 64 consecutive tokens that were calibrated on occur in the evaluation text.

    Args:
        n_tokens: tokens from the start of the calibration text that an importance matrix takes.
        drawn: the samples that AWQ and GPTQ take.

    Returns:
        How many windows occur in both.
    """
    tokenizer = _tokenizer(model)
    corpus = _tokens(read_texts(evaluation.path), tokenizer)
    start = [text[: n_tokens * _CHARS_PER_TOKEN] for text in read_texts(calibration.path)[:1]]
    leading = _tokens(start, tokenizer)[:n_tokens]
    used = [Calibration(leading[None], leading[None, :0], "", "", 0), *([drawn] if drawn else [])]
    found = sum(overlapping_windows(part, corpus, WINDOW) for part in used)
    if found:
        reporter.warn(
            f"The calibration text {calibration.name} overlaps the evaluation text {evaluation.name}: {found:,} "
            f"windows of {WINDOW} tokens occur in both, so the numbers flatter what was calibrated on it."
        )
    return found


def _tokenizer(model: Checkpoint | GgufFile) -> Tokenizer:
    if isinstance(model, Checkpoint):
        try:
            return load_tokenizer(model.path)
        except TokenizerError:
            return _Words()
    return _Words()


def _tokens(texts: Sequence[str], tokenizer: Tokenizer) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
    return np.asarray([i for ids in tokenizer.encode(texts) for i in ids], dtype=np.int32)
