"""Does the converted vocabulary tokenize as the original does? The proof that each conversion carries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ggufkit.core.errors import TokenizerError
from ggufkit.llama.pretokenizers import read_tokenizer
from ggufkit.models.probe_strings import is_normalized, is_taken_apart, probe_strings


@dataclass(frozen=True)
class TokenComparison:
    """Outcome over `n_strings`: the strings that differ, split by whether Unicode normalization explains it."""

    n_strings: int
    different: tuple[str, ...]
    unnormalized: tuple[str, ...]

    @property
    def n_mismatches(self) -> int:
        """How many differ."""
        return len(self.different) + len(self.unnormalized)


def has_tokenizer(checkpoint: Path) -> bool:
    """Whether the checkpoint has a tokenizer file that can be compared with."""
    return any((checkpoint / name).is_file() for name in ("tokenizer.json", "tokenizer.model"))


def probes_for(checkpoint: Path) -> list[str]:
    """The strings to compare for a checkpoint. SentencePiece itself knows no control tokens in text."""
    file = checkpoint / "tokenizer.json"
    if not file.is_file():
        return probe_strings()
    added = read_tokenizer(file).added_tokens or []
    return probe_strings([token.content for token in added if token.special])


def compare(
    texts: Sequence[str], original: Sequence[list[int]], converted: Sequence[list[int]], *, wordpiece: bool = False
) -> TokenComparison:
    """Compare the ids of two tokenizers, string by string.

    Args:
        wordpiece: BERT's tokenizer takes words apart before it splits them: Hangul into its letters, and marks from
            their letters. llama.cpp does so for accents only.
    """
    differ = [t for t, a, b in zip(texts, original, converted, strict=True) if a != b]
    explained = {t for t in differ if not is_normalized(t) or (wordpiece and is_taken_apart(t))}
    return TokenComparison(
        len(texts), tuple(t for t in differ if t not in explained), tuple(t for t in differ if t in explained)
    )


_NAMED_WRONGLY = (
    "The pre-tokenizer was named wrongly: give llama.cpp's name with --pre, or accept the difference with "
    "--allow-token-mismatch."
)
_NOT_NAMED = (
    "llama.cpp takes [UNK], [CLS] and [SEP] from tokenizer_config.json: does it name unk_token, cls_token and sep_token? "
    "Or accept the difference with --allow-token-mismatch."
)


def require_equal(result: TokenComparison, checkpoint: Path, *, wordpiece: bool = False) -> None:
    """Raise TokenizerError when strings differ that normalization does not explain."""
    if result.different:
        shown = ", ".join(repr(t) for t in result.different[:3])
        raise TokenizerError(
            f"The converted vocabulary of {checkpoint} tokenizes {len(result.different)} of {result.n_strings} "
            f"test strings differently from the original, among them {shown}.",
            hint=_NOT_NAMED if wordpiece else _NAMED_WRONGLY,
        )
