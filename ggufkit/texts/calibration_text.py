"""The text that a user names for calibration, as one text file: what llama-imatrix reads."""

from __future__ import annotations

import hashlib

from ggufkit.core.manifest import write_atomically
from ggufkit.core.paths import cache_dir, user_path
from ggufkit.core.progress import Reporter
from ggufkit.texts import corpus
from ggufkit.texts.calibration import read_texts
from ggufkit.texts.corpus import Corpus
from ggufkit.texts.row_files import is_structured


def resolve(given: str, field: str, reporter: Reporter) -> Corpus:
    """The text of a name, a text file, a data set, or of a directory or JSON/JSONL file, joined.

    Raises:
        CorpusError: there is none.
    """
    path = user_path(given)
    if not path.is_dir() and not is_structured(path):
        return corpus.resolve(given, reporter)
    text = "\n".join(read_texts(path, field))
    joined = cache_dir() / "texts" / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.txt"
    if not joined.is_file():
        joined.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(joined, text)
    return corpus.open_text(joined, path.name)
