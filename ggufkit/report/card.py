"""`README.md`: a model card for a hub, with its front matter, the plot beside it, the files to have, and the report.

What was written here is remembered: so what the user wrote into the front matter of an earlier card is known and kept,
and a card whose text the user wrote or edited is not written over.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ggufkit.core.escape import markdown, markdown_code
from ggufkit.core.manifest import write_atomically
from ggufkit.core.records import ResultRow
from ggufkit.hub.addresses import Address
from ggufkit.llama import evaluates
from ggufkit.llama.gguf import read_header
from ggufkit.report import commands, conditions, downloads, front_matter, guard, plots, projectors
from ggufkit.report.choose import MemoryBudget
from ggufkit.report.data import Entry, load_entries
from ggufkit.report.downloads import Shelf
from ggufkit.report.lineage import Archive
from ggufkit.report.markdown import answer, ladder_table, measured
from ggufkit.report.recommend import advise, nothing
from ggufkit.report.summary import Summary, summarize
from ggufkit.steps.step import Workspace
from ggufkit.version import __version__

CARD, PLOT = "README.md", "quality.png"
_NOTE = "card.json"


@dataclass(frozen=True)
class Card:
    """A card as it is to be written.

    Args:
        plot: PNG, None where there is nothing to draw.
        names_base_model: whether it says what the files are made from.
        note: what is remembered of it.
    """

    text: str
    plot: bytes | None
    names_base_model: bool
    note: Mapping[str, Any]

    def write(self, root: Path) -> list[Path]:
        """Write it, and its plot beside it; return what was written."""
        guard.write_note(root, _NOTE, self.note)
        write_atomically(root / CARD, self.text)
        if self.plot is None:
            return [root / CARD]
        (root / PLOT).write_bytes(self.plot)
        return [root / CARD, root / PLOT]


def write_card(rows: Sequence[ResultRow], root: Path, repo: str | None = None, base_model: str = "") -> list[Path]:
    """Write the card, and its plot if there is something to draw; return what was written.

    Args:
        repo: the hub's repository that it is for, so that the links and commands in it can be used.
        base_model: what the files are made from, where their manifests do not tell.
    """
    shelf = Shelf.of(repo, [row.file for row in rows]) if repo else None
    return render_card(rows, root, shelf, base_model).write(root)


def render_card(rows: Sequence[ResultRow], root: Path, shelf: Shelf | None = None, base_model: str = "") -> Card:
    """The card of a result directory, of which nothing is written.

    Args:
        shelf: what the repository will hold; None for a card that is for no repository yet.
    """
    entries = load_entries(rows, root)
    found, beside = conditions.collect(rows, root), projectors.collect(root)
    whole = summarize(entries, MemoryBudget(), measured=found, beside=beside)
    summary = _of_what_is_there(whole, shelf)
    plot = plots.picture(summary.quality, summary.known, summary.taken)
    told = base_model or guard.read_note(root, _NOTE).get("base_model") or ""
    header = read_header(root / entries[0].row.file)
    fields = front_matter.fields(entries, header, shelf.address if shelf else None, str(told))
    if any(one.sees for one in beside) and not evaluates.embeds(header):
        fields["pipeline_tag"] = "image-text-to-text"
    shown = _with_users_fields(fields, root)
    card = _render(shown, summary, shelf, plot=plot is not None, embeds=evaluates.embeds(header))
    note = {"card": _hash(card), "text": _hash(front_matter.without(card)), "fields": fields, "base_model": told}
    return Card(card, plot, bool(shown.get("base_model")), note)


def tells_base_model(rows: Sequence[ResultRow], root: Path) -> bool:
    """Whether it is known what the files were made from, by their manifests or because it was told before; or need not be,
    as the card is the user's."""
    if is_edited(root) or guard.read_note(root, _NOTE).get("base_model"):
        return True
    archive = Archive(Workspace(root))
    return any("/" in commands.source_of(archive.lineage(root / row.file))[0] for row in rows)


def _of_what_is_there(summary: Summary, shelf: Shelf | None) -> Summary:
    """The summary with the advice that is right for those who have the repository's files to choose from."""
    if shelf is None:
        return summary
    there = [e.row.file for e in summary.quality if e.row.file in shelf.files]
    return replace(
        summary, advice=advise(summary.quality, summary.budget, there) if there else nothing(summary.advice)
    )


def is_edited(root: Path) -> bool:
    """Whether there is a card that is not as it was written here."""
    return (root / CARD).exists() and _hash(_read(root / CARD)) != guard.read_note(root, _NOTE).get("card")


def is_rewritten(root: Path) -> bool:
    """Whether there is a card of which more than fields of the front matter is not as it was written here."""
    if not is_edited(root):
        return False
    return (
        _hash(front_matter.without(_read(root / CARD))) != guard.read_note(root, _NOTE).get("text")
        or _read_fields(root) is None
    )


def _with_users_fields(fields: Mapping[str, Any], root: Path) -> dict[str, Any]:
    """The fields, with those that the user added, changed or took out of the card that is there."""
    current, noted = _read_fields(root), guard.read_note(root, _NOTE).get("fields", {})
    if current is None:
        return dict(fields)
    kept = {key: value for key, value in current.items() if key not in noted or noted[key] != value}
    return {**{key: value for key, value in fields.items() if key in current or key not in noted}, **kept}


def _read(card: Path) -> str:
    return card.read_text(encoding="utf-8", errors="replace")


def _read_fields(root: Path) -> dict[str, Any] | None:
    return front_matter.read(_read(root / CARD)) if (root / CARD).is_file() else None


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _render(fields: Mapping[str, Any], summary: Summary, shelf: Shelf | None, *, plot: bool, embeds: bool) -> str:
    files = downloads.table(summary, shelf)
    parts = [
        front_matter.text(fields),
        f"# {markdown(summary.name)} GGUF",
        _intro(summary.entries, fields),
        answer(summary),
        downloads.usage(summary.advice, shelf, embeds=embeds) if shelf else "",
        ladder_table(summary.advice.ladder, lambda entry: downloads.links(entry, shelf)),
        *(["## Files", files] if files else []),
        downloads.ways(summary, shelf) if shelf else "",
        f"![Loss against file size]({PLOT})" if plot else "",
        "## How they were made",
        downloads.how_made(summary, shelf),
        "## What was measured",
        measured(summary),
    ]
    return "\n\n".join(part.strip("\n") for part in parts if part) + "\n"


def _intro(entries: Sequence[Entry], fields: Mapping[str, Any]) -> str:
    source, revision = front_matter.origin(entries)
    told = source or str(fields.get("base_model") or "")
    made = f" at commit {markdown_code(revision[:12])}" if revision else ""
    shown = markdown(told.removeprefix("ms:"))
    of = f" of [{shown}]({Address(told).page})" if front_matter.is_hubs(told) else f" of {shown}" if told else ""
    held = next((f", whose checkpoint holds {markdown(e.quantized)}" for e in entries if e.quantized), "")
    return f"GGUF files{of}{made}{held}, made and measured with ggufkit {__version__}."
