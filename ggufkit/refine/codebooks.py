"""Levels that are chosen several at a time: a word of magnitudes from a codebook, and a sign for each."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize

from ggufkit.refine.fields import I8, U8, Field, Numbers

# Levels whose signs are told together, where the last follows from the others.
_SIGNED = 8


@dataclass(frozen=True)
class Codebook:
    """How a block type tells its levels.

    Args:
        name: of the type, by which gguf knows the words.
        length: levels of a word.
        worth: of a level, in a block whose d is 1 and whose other bits are 0.
        index: which word, for each `length` levels.
        signs: 1 or -1 for each level; or for seven of eight, and the eighth makes the number of negative ones even.
    """

    name: str
    length: int
    worth: float
    index: Field
    signs: Field

    @property
    def n_levels(self) -> int:
        """Levels of a block."""
        return self.length * self.index.n_elements

    @property
    def is_even(self) -> bool:
        """Whether of each eight levels an even number is negative."""
        return self.signs.n_elements < self.n_levels

    @property
    def unit(self) -> int:
        """How many levels are chosen together."""
        return _SIGNED if self.is_even else self.length

    @cached_property
    def words(self) -> I8:
        """All words, (words, length): what gguf makes of blocks that have them."""
        kind, n = GGMLQuantizationType[self.name], self.index.n_elements
        n_blocks = -(-len(self.index.values) // n)
        raw = np.zeros((n_blocks, GGML_QUANT_SIZES[kind][1]), np.uint8)
        raw[:, :2] = np.array([1], np.float16).view(np.uint8)
        self.index.write(np.arange(n_blocks * n).reshape(n_blocks, n), raw)
        words: I8 = (dequantize(raw, kind) / self.worth).astype(np.int8).reshape(-1, self.length)
        return words

    @cached_property
    def sorted_values(self) -> tuple[int, ...]:
        """The levels that there are, ascending."""
        magnitudes = np.unique(self.words).tolist()
        return (*(-m for m in reversed(magnitudes)), *magnitudes)

    def read(self, raw: U8) -> I8:
        """Levels [n_blocks, n_levels] of `raw` [n_blocks, block bytes]."""
        magnitudes = self.words[self.index.read(raw)].reshape(len(raw), -1)
        signs = self.signs.read(raw)
        if self.is_even:
            stored = signs.reshape(len(raw), -1, _SIGNED - 1)
            signs = np.concatenate([stored, stored.prod(-1, keepdims=True, dtype=np.int8)], axis=-1)
        levels: I8 = magnitudes * signs.reshape(magnitudes.shape)
        return levels

    def write(self, levels: I8, raw: U8) -> None:
        """Set the bits, zero so far, in `raw`. Levels must be words with signs that can be told."""
        ranks, powers = self._ranks[np.abs(levels)], len(self._ranks_of) ** np.arange(self.length)
        self.index.write(self._numbers[ranks.reshape(len(levels), -1, self.length) @ powers], raw)
        signs = np.where(levels < 0, np.int8(-1), np.int8(1))
        if self.is_even:
            signs = signs.reshape(len(levels), -1, _SIGNED)[..., :-1].reshape(len(levels), -1)
        self.signs.write(signs, raw)

    @property
    def _ranks_of(self) -> tuple[int, ...]:
        return self.sorted_values[len(self.sorted_values) // 2 :]

    @cached_property
    def _ranks(self) -> Numbers:
        """The rank of each magnitude among those that there are, (128,)."""
        ranks = np.zeros(128, np.int32)
        ranks[list(self._ranks_of)] = np.arange(len(self._ranks_of))
        return ranks

    @cached_property
    def _numbers(self) -> Numbers:
        """Which word has these ranks, read as the digits of a number."""
        n = len(self._ranks_of)
        numbers = np.zeros(n**self.length, np.int16)
        numbers[self._ranks[self.words] @ n ** np.arange(self.length)] = np.arange(len(self.words))
        return numbers
