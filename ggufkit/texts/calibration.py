"""Calibration text: read it, tokenize it as the checkpoint does, and draw N samples of L tokens with a seed.

    texts = read_texts(path)
    tokenizer = load_tokenizer(checkpoint)
    calibration = draw(texts, tokenizer, Sampling(128, length=512, seed=42), source=str(path))

No torch here: `calibration.samples` is a numpy array (samples, length) of token ids. `calibration.held_out`
holds further samples of the same text which share no token with the others; proofs and stopping rules use it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ggufkit.core.errors import CorpusError, GgufkitError, TokenizerError
from ggufkit.core.jsonfile import read_json
from ggufkit.core.manifest import Notes
from ggufkit.llama.pretokenizers import read_tokenizer
from ggufkit.texts.row_files import JSON, LINES, decode, is_structured, read_entries, text_of

Tokens = NDArray[np.int32]

_TEXT = (".txt", ".md", ".raw")
# Long enough that cutting text there hardly matters, short enough that a huge text is sampled all over.
_PIECE_CHARS = 1 << 16
_PIECES_AT_ONCE = 8
# Four times what English needs: the text of a sample is a small random part of a large corpus.
_CHARS_PER_TOKEN = 16


class Tokenizer(Protocol):
    """What calibration needs of a tokenizer. `bos` is None where the model's prompts start without one."""

    bos: int | None
    n_vocab: int

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The token ids of each text, without special tokens around it."""


@dataclass(frozen=True)
class Sampling:
    """How a calibration text is sampled.

    Args:
        samples: how many to calibrate on.
        length: tokens of each, its BOS counted.
        seed: of the choice among all samples that the text holds.
        held_out: further samples, for proofs and stopping rules.
    """

    samples: int = 128
    length: int = 512
    seed: int = 42
    held_out: int = 8


@dataclass(frozen=True)
class CalibrationNotes(Notes):
    """What a manifest says of the samples that something was calibrated on: their text, how many tokens, which seed.

    `calibration_source` is what the user called the text.
    """

    calibration_source: str = ""
    calibration_text_sha256: str = ""
    calibration_tokens_sha256: str = ""
    calibration_samples: int | None = None
    calibration_sample_tokens: int | None = None
    calibration_tokens: int | None = None
    calibration_seed: int | None = None


@dataclass(frozen=True)
class Calibration:
    """Samples of token ids, each starting with the tokenizer's BOS if it has one.

    Args:
        samples: (n, length) token ids.
        held_out: (m, length) token ids of the same text, disjoint from `samples`.
        source, text_sha256, seed: what they were drawn from, and how.
    """

    samples: Tokens
    held_out: Tokens
    source: str
    text_sha256: str
    seed: int

    @property
    def n_tokens(self) -> int:
        """Tokens to calibrate on, the held-out ones not counted."""
        return int(self.samples.size)

    @cached_property
    def tokens_sha256(self) -> str:
        """Hash of all token ids: what a result calibrated on them depends on."""
        digest = hashlib.sha256()
        for part in (self.samples, self.held_out):
            digest.update(str(part.shape).encode())
            digest.update(np.ascontiguousarray(part, dtype="<i4").tobytes())
        return digest.hexdigest()

    @property
    def notes(self) -> CalibrationNotes:
        """What the manifest of a calibrated artefact says about its calibration."""
        return CalibrationNotes(
            self.source,
            self.text_sha256,
            self.tokens_sha256,
            calibration_samples=len(self.samples),
            calibration_sample_tokens=int(self.samples.shape[1]),
            calibration_tokens=self.n_tokens,
            calibration_seed=self.seed,
        )


def read_texts(path: Path, field: str = "text") -> list[str]:
    """The texts of a file or directory.

    A text file is one text; JSON holds a list, JSONL one value a line, of strings or of objects with `field`;
    a directory stands for all such files below it, in the order of their names; hidden ones do not count.

    Raises:
        CorpusError: nothing there, not text, or no such field.
    """
    if path.is_dir():
        known = (*_TEXT, JSON, *LINES)
        below = (f for f in path.rglob("*") if not any(part.startswith(".") for part in f.relative_to(path).parts))
        files = sorted(f for f in below if f.is_file() and f.suffix.lower() in known)
    else:
        files = [path]
    texts = [text for file in files for text in _read_file(file, field) if text.strip()]
    if not texts:
        hint = "Give a text file, a directory of them, or JSON/JSONL, with --calibration."
        raise CorpusError(f"There is no calibration text in {path}.", hint=hint)
    return texts


def _read_file(file: Path, field: str) -> list[str]:
    if is_structured(file):
        return [text_of(entry, field, file) for entry in read_entries(file)]
    return [decode(file)]


def load_tokenizer(checkpoint: Path, *, special: bool = False) -> Tokenizer:
    """The tokenizer of a checkpoint directory, from tokenizer.json or a SentencePiece tokenizer.model.

    Args:
        special: it has to parse special tokens in a text, which SentencePiece alone does not.

    Raises:
        TokenizerError: neither file is there, or it cannot be read, or does not parse special tokens.
    """
    fast, pieces = checkpoint / "tokenizer.json", checkpoint / "tokenizer.model"
    try:
        if fast.is_file():
            return _FastTokenizer(fast)
        if pieces.is_file() and not special:
            return _SentencePiece(pieces, _adds_bos(checkpoint))
    except GgufkitError as error:
        message = f"The tokenizer of {checkpoint} cannot be read: {error.message}"
        raise TokenizerError(message, hint=error.hint) from error
    except Exception as error:  # both libraries raise bare exceptions of their own
        message = f"The tokenizer of {checkpoint} cannot be read: {error}."
        raise TokenizerError(message, hint="Download its files again.") from error
    hint = "Save it with transformers: AutoTokenizer.from_pretrained(...).save_pretrained(...)."
    if pieces.is_file():
        message = f"{checkpoint} has no tokenizer.json, without which a chat's special tokens are not parsed."
        raise TokenizerError(message, hint=hint)
    raise TokenizerError(f"{checkpoint} has neither tokenizer.json nor tokenizer.model.", hint=hint)


def _adds_bos(checkpoint: Path) -> bool:
    config = checkpoint / "tokenizer_config.json"
    return not config.is_file() or read_json(config, _TokenizerConfig, TokenizerError).add_bos_token is not False


@dataclass(frozen=True)
class _TokenizerConfig:
    """The part of tokenizer_config.json that SentencePiece does not know."""

    add_bos_token: bool | None = True


class _FastTokenizer:
    def __init__(self, file: Path) -> None:
        from tokenizers import Tokenizer as Fast

        read_tokenizer(file)
        self._fast = Fast.from_file(str(file))
        self._fast.no_truncation()
        self._fast.no_padding()
        self.n_vocab = int(self._fast.get_vocab_size())
        bare, dressed = (self._fast.encode("a", add_special_tokens=s).ids for s in (False, True))
        self.bos: int | None = dressed[0] if dressed[0] != bare[0] else None

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The token ids of each text."""
        return [e.ids for e in self._fast.encode_batch(list(texts), add_special_tokens=False)]


class _SentencePiece:
    def __init__(self, file: Path, adds_bos: bool) -> None:
        from sentencepiece import SentencePieceProcessor

        self._pieces = SentencePieceProcessor(model_file=str(file))
        self.n_vocab = int(self._pieces.vocab_size())
        bos = int(self._pieces.bos_id())
        self.bos: int | None = bos if adds_bos and bos >= 0 else None

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The token ids of each text."""
        return [list(ids) for ids in self._pieces.encode(list(texts))]


def require_vocabulary(tokenizer: Tokenizer, n_rows: int, tokens: Tokens) -> None:
    """Refuse a tokenizer that cannot be the model's.

    Args:
        n_rows: rows of the model's token embedding, which may be padded.
        tokens: ids that are to be run through it.

    Raises:
        TokenizerError: an id has no embedding, or the vocabulary is less than half of the embedding.
    """
    highest = int(tokens.max(initial=0))
    if highest < n_rows and 2 * tokenizer.n_vocab > n_rows:
        return
    message = (
        f"The tokenizer has {tokenizer.n_vocab:,} tokens (highest id used {highest:,}), the model {n_rows:,}."
    )
    raise TokenizerError(message, hint="The checkpoint holds another model's tokenizer; download it again.")


def draw(texts: Sequence[str], tokenizer: Tokenizer, sampling: Sampling, *, source: str = "") -> Calibration:
    """Cut the texts into samples of equal length and choose among them.

    Texts are joined and cut, so that long ones are not dropped and short ones fill up a sample together.

    Args:
        sampling: how many, how long, chosen by which seed.
        source: what the texts are called by in manifests.

    Raises:
        CorpusError: the texts hold fewer samples than asked for.
    """
    rng = np.random.default_rng(sampling.seed)
    bos, samples = tokenizer.bos, sampling.samples
    content = sampling.length - (bos is not None)
    wanted = samples + sampling.held_out
    pieces = _some_pieces(texts, wanted * content * _CHARS_PER_TOKEN, rng)
    stream = _tokenized(pieces, tokenizer)
    available = stream.size // content
    if available < wanted:
        raise _too_few(stream.size, available, sampling)
    chosen = rng.permutation(available)[:wanted]
    blocks = stream[: available * content].reshape(available, content)
    picked = np.concatenate([np.sort(chosen[:samples]), np.sort(chosen[samples:])])
    drawn = blocks[picked]
    if bos is not None:
        drawn = np.concatenate([np.full((wanted, 1), bos, dtype=np.int32), drawn], axis=1)
    sha256 = hashlib.sha256("\0".join(texts).encode()).hexdigest()
    return Calibration(drawn[:samples], drawn[samples:], source, sha256, sampling.seed)


def _tokenized(pieces: Sequence[str], tokenizer: Tokenizer) -> Tokens:
    """The tokens of all pieces, a few at a time: a tokenizer notes far more of each token than its id."""
    parts = [np.zeros(0, dtype=np.int32)]
    for start in range(0, len(pieces), _PIECES_AT_ONCE):
        encoded = tokenizer.encode(pieces[start : start + _PIECES_AT_ONCE])
        parts += [np.asarray(ids, dtype=np.int32) for ids in encoded]
    return np.concatenate(parts)


def _too_few(tokens: int, available: int, sampling: Sampling) -> CorpusError:
    message = (
        f"The calibration text has {tokens:,} tokens, {available} samples of {sampling.length}; "
        f"{sampling.samples} and {sampling.held_out} held-out ones are needed."
    )
    most = available - sampling.held_out
    hint = "Give more text with --calibration"
    return CorpusError(message, hint=f"{hint}, or --calibration-samples {most}." if most > 0 else f"{hint}.")


def _some_pieces(texts: Sequence[str], most_chars: int, rng: np.random.Generator) -> list[str]:
    """Pieces of the texts in their order: all of them, or a random choice of `most_chars` characters in all."""
    pieces = list(_pieces(texts))
    if sum(map(len, pieces)) <= most_chars:
        return pieces
    order = rng.permutation(len(pieces))
    total = np.cumsum([len(pieces[i]) for i in order])
    enough = int(np.searchsorted(total, most_chars)) + 1
    return [pieces[i] for i in np.sort(order[:enough])]


def _pieces(texts: Sequence[str]) -> Iterator[str]:
    for text in texts:
        start = 0
        while start < len(text):
            end = start + _PIECE_CHARS
            cut = text.rfind("\n", start, end) + 1 if end < len(text) else len(text)
            end = cut if cut > start else end
            yield text[start:end]
            start = end


def overlapping_windows(calibration: Calibration, corpus: Tokens, window: int = 64) -> int:
    """How many windows of `window` consecutive calibration tokens occur in the evaluation corpus.

    Args:
        corpus: (n,) token ids of the evaluation text, by the same tokenizer.
    """
    known = np.unique(_window_hashes(corpus[None], window))
    return sum(
        int(np.isin(_window_hashes(s, window), known).sum()) for s in (calibration.samples, calibration.held_out)
    )


def _window_hashes(rows: Tokens, window: int) -> NDArray[np.uint64]:
    """A 64-bit polynomial hash of every window of every row; rows shorter than it have none."""
    n = rows.shape[1] - window + 1
    if n <= 0 or not len(rows):
        return np.zeros(0, dtype=np.uint64)
    hashes = np.zeros((len(rows), n), dtype=np.uint64)
    ids = rows.astype(np.uint64) + np.uint64(1)
    for offset in range(window):
        hashes = hashes * np.uint64(0x9E3779B97F4A7C15) + ids[:, offset : offset + n]
    return hashes.reshape(-1)
