"""The texts that a user names for calibration, as one text file: what llama-imatrix reads."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ggufkit.core.errors import UsageError
from ggufkit.core.hashing import sha256_file
from ggufkit.core.manifest import write_atomically
from ggufkit.core.paths import cache_dir, user_path
from ggufkit.core.progress import Reporter
from ggufkit.texts import corpus
from ggufkit.texts.calibration import read_texts
from ggufkit.texts.chats import FIELD, holds_chats
from ggufkit.texts.corpus import Corpus
from ggufkit.texts.row_files import decode, is_structured

AND = " + "
"""What stands between the names of texts that are mixed."""
_SHARE = re.compile(r"(?P<text>.+):(?:(?P<fraction>0?\.\d+)|(?P<percent>\d{1,2}(?:\.\d+)?)%)")
_STRETCH = 4096
"""Characters, or a line more: two samples of 512 tokens."""
_MOST = 1.0 + 1e-9


@dataclass(frozen=True)
class Part:
    """A text of a mixture, and which fraction of its characters is from it."""

    text: Corpus
    share: float = 1.0


def resolve(given: str | Sequence[str], field: str, reporter: Reporter) -> tuple[Part, ...]:
    """The texts of names, text files, data sets, or of directories or JSON/JSONL files, each joined; with their shares.

    Several texts without a share have equal parts of what is left. Conversations in JSON or JSONL have yet to be rendered:
    see `Corpus.chats`.

    Raises:
        UsageError: the shares are more than the whole, or not all of it.
        CorpusError: there is no such text.
    """
    words = (given,) if isinstance(given, str) else tuple(given)
    if len(words) == 1:
        return (Part(_text(words[0], field, reporter)),)
    asked = [_split(word) for word in words]
    shares = _whole([share for _, share in asked])
    return tuple(Part(_text(text, field, reporter), share) for (text, _), share in zip(asked, shares, strict=True))


def require_readable(given: str | Sequence[str]) -> None:
    """Raise MissingExtra where `resolve` would, after what may be long: see `corpus.require_readable`."""
    words = (given,) if isinstance(given, str) else tuple(given)
    for word in words:
        corpus.require_readable(_split(word)[0] if len(words) > 1 else word)


def mixed(parts: Sequence[Part]) -> Corpus:
    """One text of several, stretches of each in turn, so that every part of it has about their shares.

    It ends where one of them is used up. A text alone stays as it is.
    """
    if len(parts) == 1:
        return parts[0].text
    said = [f"{part.text.sha256} {part.share:.9f}" for part in parts]
    target = cache_dir() / "texts" / f"mixed-{hashlib.sha256(AND.join(said).encode()).hexdigest()[:16]}.txt"
    if not target.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(
            target, "".join(_in_turns([decode(p.text.path) for p in parts], [p.share for p in parts]))
        )
    name = AND.join(f"{part.text.name}:{part.share:.4g}" for part in parts)
    special = any(part.text.special for part in parts)
    return Corpus(target, sha256_file(target), target.stat().st_size, name, special)


def _text(given: str, field: str, reporter: Reporter) -> Corpus:
    path = user_path(given)
    of_chats = holds_chats(path, None if field == "text" else field)
    if of_chats or not (path.is_dir() or is_structured(path)):
        return corpus.resolve(f"{given}:{FIELD}" if of_chats else given, reporter)
    text = "\n".join(read_texts(path, field))
    joined = cache_dir() / "texts" / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.txt"
    if not joined.is_file():
        joined.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(joined, text)
    return corpus.open_text(joined, path.name)


def _split(word: str) -> tuple[str, float | None]:
    """A text and its share, None where none is given."""
    found = _SHARE.fullmatch(word)
    if found is None or user_path(word).exists():
        return word, None
    return found["text"], float(found["fraction"]) if found["fraction"] else float(found["percent"]) / 100


def _whole(shares: Sequence[float | None]) -> list[float]:
    """The shares of all, which are the whole together."""
    given = sum(share for share in shares if share is not None)
    without = sum(share is None for share in shares)
    left = max(0.0, 1.0 - given)
    if given > _MOST or (without and left < _MOST - 1) or (not without and given < 2 - _MOST):
        message = f"The shares of the calibration texts are {given:.4g} together."
        raise UsageError(message, hint="Let them be 1, or leave out that of one text: it gets what is left.")
    return [left / without if share is None else share for share in shares]


def _in_turns(texts: Sequence[str], shares: Sequence[float]) -> Iterator[str]:
    """Stretches of the text that is furthest behind its share, until one is used up."""
    done = [0] * len(texts)
    while True:
        turn = min((i for i, share in enumerate(shares) if share), key=lambda i: done[i] / shares[i])
        start, text = done[turn], texts[turn]
        if start >= len(text):
            return
        newline = text.find("\n", start + _STRETCH)
        done[turn] = len(text) if newline < 0 else newline + 1
        stretch = text[start : done[turn]]
        yield stretch if stretch.endswith("\n") else stretch + "\n"
