"""Texts by name besides WikiText-2, each from one split of a small data set on a hub: Chinese, code, conversations."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ggufkit.core import extras
from ggufkit.core.errors import CorpusError
from ggufkit.core.jsonfile import parse_json
from ggufkit.core.paths import cache_dir
from ggufkit.core.progress import Reporter
from ggufkit.hub import huggingface, modelscope
from ggufkit.hub.listing import Repo
from ggufkit.hub.obtain import Place
from ggufkit.texts import hub_tables, tables
from ggufkit.texts.chats import FIELD


@dataclass(frozen=True)
class NamedText:
    """A split of a data set whose column is the text: the same names on Hugging Face and on ModelScope.

    Args:
        config: the directory of its tables, None for any.
    """

    name: str
    repo: str
    config: str | None
    split: str
    column: str

    @property
    def of_chats(self) -> bool:
        """Whether it holds conversations, for a model's own template to render."""
        return self.column == FIELD

    @property
    def path(self) -> Path:
        """Where it is kept."""
        return cache_dir() / "corpora" / f"{self.name}.{'jsonl' if self.of_chats else 'txt'}"


_CONVERSATIONS = "HuggingFaceTB/everyday-conversations-llama3.1-2k"

TEXTS = {
    text.name: text
    for text in (
        # Chinese Wikipedia: several questions about one paragraph are as many rows
        NamedText("chinese", "hfl/cmrc2018", None, "validation", "context"),
        # Python: 500 programs, with the line ends of Windows
        NamedText("code", "google-research-datasets/mbpp", "full", "test", "code"),
        NamedText("chat", _CONVERSATIONS, None, "test_sft", FIELD),
        NamedText("chat-train", _CONVERSATIONS, None, "train_sft", FIELD),
    )
}


def obtained(text: NamedText, reporter: Reporter) -> Path:
    """A text on disk, fetched on first use from the hub that answers, whose hashes its tables are checked against.

    Each row counts once; there is an empty line between texts, and line ends are those of Unix.

    Raises:
        MissingExtra: what reads tables is not installed.
        CorpusError: they have no such column.
        SourceError: no hub has it.
    """
    if not text.path.is_file():
        require_readable(text)
        with hub_tables.making(text.path, reporter) as partial:
            places = [Place(hub, Repo(text.repo, kind="dataset")) for hub in (huggingface, modelscope)]
            rows = partial.with_suffix(".rows")
            tables.write_rows(hub_tables.split_tables(places, text.config, text.split, reporter), rows)
            written = "".join(dict.fromkeys(_entries(text, rows)))
            partial.write_text(written, encoding="utf-8", newline="")
    return text.path


def require_readable(text: NamedText) -> None:
    """Raise MissingExtra where it cannot be read for want of packages, and is not in the cache."""
    if not text.path.is_file():
        extras.require("data", modules=("pyarrow",))


def _entries(text: NamedText, rows: Path) -> Iterator[str]:
    what = f"A row of {text.repo}"
    with rows.open(encoding="utf-8") as lines:
        for row in (
            parse_json(line, dict[str, Any], what, CorpusError, hint="Name another text.") for line in lines
        ):
            if not row.get(text.column):
                have = ", ".join(row)
                hint = "Give a text of your own with --corpus FILE."
                raise CorpusError(f"{what} has no {text.column!r}; it has: {have}.", hint=hint)
            value = row[text.column]
            if text.of_chats:
                yield json.dumps({FIELD: value}, ensure_ascii=False) + "\n"
            else:
                yield str(value).replace("\r\n", "\n").strip("\n") + "\n\n"
