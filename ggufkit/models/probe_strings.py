"""Strings that tell tokenizers apart: what pre-tokenizers, byte fallback and control tokens disagree on."""

from __future__ import annotations

import itertools
import random
import unicodedata
from collections.abc import Sequence

_WORDS = ("Hello", "world", "naïve", "can't", "WE'LL", "I'd've", "o'clock", "x2y", "e-mail", "U.S.A.", "co-op")
_NUMBERS = ("0", "7", "42", "365", "2024", "31415", "1000000", "1,234,567.89", "3.14e-10", "0x1F", "١٢٣", "²³¼")
_SPACES = (" ", "  ", "   ", "\t", "\n", "\n\n", "\r\n", " \n", "\n ", "\t\t ", "\u00a0", "\u3000", " \n \n ")
_SCRIPTS = (
    "你好，世界", "日本語のテスト。", "한국어 시험", "Привет мир", "Ελληνικά", "שלום עולם", "مرحبا بالعالم",
    "हिन्दी परीक्षण", "ไทย", "ኣማርኛ", "Việt Nam", "Straße", "İstanbul", "ﬁn ﬂow", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢",
)  # fmt: skip
_EMOJI = ("🙂", "👩‍🚀", "🏳️‍🌈", "👍🏽", "🇨🇭", "☕️", "❤️‍🔥", "🤷‍♀️ ok", "x🙂y", "🙂🙂🙂")
_PUNCTUATION = (
    "...", "!!!", "?!", "--", "—", "«quoted»", "“double”", "'single'", "(a) [b] {c}", "a/b\\c", "<tag attr='1'>",
    "http://example.org/a?b=c&d=e#f", "user@example.com", "#include <vector>", "a==b!=c<=d", "$5.00 €6 £7",
    "100%", "C++", "C#", "*bold* _it_ `code`", "```py\nx = 1\n```", "|a|b|\n|-|-|", ";;", "~", "^_^",
)  # fmt: skip
_CODE = (
    "def f(x):\n    return x ** 2\n", "for (int i = 0; i < n; ++i) {\n\tsum += a[i];\n}\n", "SELECT * FROM t;",
    '{"key": [1, 2.5, null, true]}', "if x:\n        pass\n\n\n\n", "\tindented\n\t\tmore\n",
)  # fmt: skip
_CONTRACTIONS = ("'s", "'t", "'re", "'ve", "'m", "'ll", "'d", "'S", "'T", "'RE", "’s")
_ODD = (
    "",
    "a",
    " a",
    "a ",
    " ",
    "\n",
    "\u200b",
    "\ufeff",
    "\u202eabc",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
)
_RANDOM_SEED = 20


def probe_strings(control_tokens: Sequence[str] = (), count: int = 320) -> list[str]:
    """About `count` strings, always the same; those with `control_tokens` show that these are recognized."""
    fixed = [*_ODD, *_WORDS, *_NUMBERS, *_SPACES, *_SCRIPTS, *_EMOJI, *_PUNCTUATION, *_CODE]
    contractions = [f"{word}{tail}" for word, tail in itertools.product(("we", "I", "DON", "it "), _CONTRACTIONS)]
    spaced = [f"a{space}b" for space in _SPACES] + [f"{space}word" for space in _SPACES]
    digits = ["9" * n for n in range(1, 13)] + [f"year {n}!" for n in (1, 12, 123, 1234, 12345)]
    control = [text for token in control_tokens[:8] for text in _around(token)]
    strings = [*fixed, *contractions, *spaced, *digits, *control]
    return strings + _mixtures(max(0, count - len(strings)))


def _around(token: str) -> list[str]:
    return [token, f"a{token}b", f"a {token} b", f"\n{token}\n", token * 2]


def _mixtures(count: int) -> list[str]:
    """Random sentences over all the pieces."""
    choice = random.Random(_RANDOM_SEED)
    pieces = (*_WORDS, *_NUMBERS, *_SPACES, *_SCRIPTS, *_EMOJI, *_PUNCTUATION)
    return [choice.choice(("", " ")).join(choice.choices(pieces, k=choice.randint(2, 12))) for _ in range(count)]


def is_normalized(text: str) -> bool:
    """Whether Unicode normalization (NFC, NFKC) leaves a text alone; llama.cpp's tokenizers do not normalize."""
    return all(unicodedata.is_normalized(form, text) for form in ("NFC", "NFKC"))


def is_taken_apart(text: str) -> bool:
    """Whether a text has syllables of Hangul or spacing vowel signs, which BERT's normalization takes apart or keeps."""
    return any("\uac00" <= char <= "\ud7a3" or unicodedata.category(char) == "Mc" for char in text)
