"""A text to evaluate or calibrate on: found, verified, and refused when it is not what the tools should read."""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass, replace
from pathlib import Path

from ggufkit.core.errors import CorpusError
from ggufkit.core.hashing import sha256_file
from ggufkit.core.inputs import Input
from ggufkit.core.paths import user_path
from ggufkit.core.progress import Reporter, SilentReporter
from ggufkit.texts import chats, named, wikitext
from ggufkit.texts.dataset_rows import KNOWN, table_kind
from ggufkit.texts.row_files import HEAD, require_no_utf16

_WIKITEXT2_TEST_BYTES = 1_290_590
WIKITEXT2_TEST_SHA256 = wikitext.TEXTS["wikitext2"].sha256

_TABLE = re.compile(r"(?P<path>.+\.(?:parquet|arrow|feather|jsonl?|ndjson))(?::(?P<column>\w+))?", re.IGNORECASE)
_PACKED = {
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "zip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "zstandard",
}
"""How files begin whose text has to be unpacked first."""
NAMES = (*wikitext.TEXTS, *named.TEXTS)
"""What texts are known by a name."""
_FILES = "a text file, a .parquet, .arrow, .json or .jsonl file"
_HINT = f"Give {_FILES}, a data set (OWNER/NAME:SPLIT:COLUMN), or one of {', '.join(NAMES)}."


@dataclass(frozen=True)
class Corpus:
    """One text file that llama-perplexity reads.

    Args:
        special: the special tokens in it are parsed as such.
        chats: it holds conversations, and is no text until a model's own template has rendered them.
    """

    path: Path
    sha256: str
    n_bytes: int
    name: str
    special: bool = False
    chats: bool = False

    def as_input(self) -> Input:
        """The file as a step reads it."""
        return Input(self.path, self.sha256)


def resolve(given: str, reporter: Reporter | None = None) -> Corpus:
    """The text that the user named: by a name of the table, a file, a file of rows or of conversations, or a data set.

    Conversations have yet to be rendered: see `Corpus.chats`.

    Raises:
        CorpusError: there is none, or it is not what its name says.
        SourceError: a hub refuses it.
    """
    teller = reporter or SilentReporter()
    if given in wikitext.TEXTS:
        return open_text(wikitext.named(wikitext.TEXTS[given], teller), given)
    if given in named.TEXTS:
        known = named.TEXTS[given]
        return replace(open_text(named.obtained(known, teller), given), chats=known.of_chats)
    path = user_path(given)
    rows = _TABLE.fullmatch(given)
    if rows is not None and user_path(rows["path"]).is_file():
        source = user_path(rows["path"])
        if chats.holds_chats(source, rows["column"]):
            return replace(open_text(source), chats=True)
        return open_text(wikitext.table(source, rows["column"], teller), source.name)
    if path.is_file():
        text = open_text(path)
        _warn_of_marks(path, teller)
        return text
    if wikitext.is_dataset(given):
        return open_text(wikitext.dataset(given, teller), given)
    raise CorpusError(f"There is no text {given}.", hint=_HINT)


def require_readable(given: str) -> None:
    """Raise MissingExtra where `resolve` would, after what may be long: only names and the cache are looked at."""
    rows = _TABLE.fullmatch(given)
    if given in wikitext.TEXTS:
        return
    if given in named.TEXTS:
        named.require_readable(named.TEXTS[given])
    elif rows is not None and (source := user_path(rows["path"])).is_file():
        wikitext.require_table(source, rows["column"])
    elif wikitext.is_dataset(given) and not user_path(given).exists():
        wikitext.require_dataset(given)


def expected(given: str) -> Corpus | None:
    """What `resolve` gives for the text that everyone takes, without fetching it: nothing may be at its path. Else None."""
    if given != "wikitext2":
        return None
    return Corpus(Path(wikitext.TEXTS[given].file), WIKITEXT2_TEST_SHA256, _WIKITEXT2_TEST_BYTES, given)


def inventory() -> dict[str, Path | None]:
    """The texts that are used by default, and where those are that are in the cache."""
    return {name: wikitext.cached_text(text) for name, text in wikitext.TEXTS.items()}


def open_text(path: Path, name: str | None = None) -> Corpus:
    """Check that a file is UTF-8 text.

    Raises:
        CorpusError: it is missing, empty, binary, or not UTF-8.
    """
    if not path.is_file():
        raise CorpusError(f"The text {path} is not there.", hint=_HINT)
    if path.stat().st_size == 0:
        raise CorpusError(f"The text {path} is empty.", hint="Give a text file with --corpus.")
    _refuse_table(path)
    _refuse_packed(path)
    _require_utf8(path)
    digest = sha256_file(path)
    return Corpus(path, digest, path.stat().st_size, name or KNOWN.get(digest, path.name))


def _warn_of_marks(path: Path, reporter: Reporter) -> None:
    """Bytes that other systems put into a text become tokens of their own: the figures are another text's."""
    with path.open("rb") as file:
        start = file.read(1 << 20)
    marks = {"a byte order mark": start.startswith(codecs.BOM_UTF8), "Windows line ends (CRLF)": b"\r\n" in start}
    if found := " and ".join(mark for mark, there in marks.items() if there):
        reporter.warn(f"{path} has {found}: what is measured on it is not comparable with the same text without.")


def _refuse_table(path: Path) -> None:
    kind = table_kind(path)
    if kind is not None:
        what = "a Parquet file" if kind == "parquet" else "an Arrow file"
        raise CorpusError(
            f"{path} is {what}: llama-perplexity would read its binary framing as text and print a wrong number.",
            hint="Give it to --corpus of ggufkit under its own name (.parquet, .arrow): its text column is extracted.",
        )


def _refuse_packed(path: Path) -> None:
    with path.open("rb") as file:
        start = file.read(max(map(len, _PACKED)))
    kind = next((name for mark, name in _PACKED.items() if start.startswith(mark)), None)
    if kind is not None:
        raise CorpusError(f"{path} is compressed ({kind}), not text.", hint="Unpack it, and give what is in it.")


def _require_utf8(path: Path) -> None:
    """Decode the file in pieces; the place of the first bad byte is named."""
    decoder, offset = codecs.getincrementaldecoder("utf-8")(), 0
    with path.open("rb") as file:
        require_no_utf16(path, file.read(HEAD))
        file.seek(0)
        while block := file.read(1 << 20):
            pending = len(decoder.getstate()[0])
            try:
                text = decoder.decode(block)
            except UnicodeDecodeError as error:
                raise _not_utf8(path, offset - pending + error.start) from None
            if "\0" in text:
                raise CorpusError(f"{path} is binary: it holds NUL bytes.", hint="Give a text file with --corpus.")
            offset += len(block)
    if decoder.getstate()[0]:
        raise _not_utf8(path, offset)


def _not_utf8(path: Path, offset: int) -> CorpusError:
    hint = "Convert it to UTF-8; if it is Latin-1: iconv -f LATIN1 -t UTF-8 FILE > NEW"
    return CorpusError(f"{path} is not UTF-8: byte {offset:,} is wrong.", hint=hint)
