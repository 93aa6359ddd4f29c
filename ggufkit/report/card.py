"""`README.md`: a model card for a hub, with its front matter, the plot beside it, and the report.

Licence, tags and languages come from the source model, as its GGUF carries them. What was written here is remembered: so
what the user wrote into the front matter of an earlier card is known and kept, and a card whose text the user wrote or
edited is not written over.
"""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ggufkit.core.escape import markdown, markdown_block, markdown_code
from ggufkit.core.manifest import write_atomically
from ggufkit.core.records import ResultRow
from ggufkit.hub import names
from ggufkit.llama import evaluates
from ggufkit.llama.gguf import read_header
from ggufkit.models.lora import split_source
from ggufkit.report import guard
from ggufkit.report.choose import MemoryBudget
from ggufkit.report.data import Entry, load_entries
from ggufkit.report.labels import Label, place
from ggufkit.report.losses import measured
from ggufkit.report.markdown import render_markdown
from ggufkit.report.summary import Summary, summarize
from ggufkit.version import __version__

CARD, PLOT = "README.md", "quality.png"
_NOTE = "card.json"
_TAGS = ("gguf", "llama.cpp", "quantized")
_LICENSE_KEYS = {"license": "license", "license_name": "license.name", "license_link": "license.link"}
_LONGEST_FIELDS, _MOST_BRACKETS = 1 << 16, 200
"""More than any card has; PyYAML's time grows with the square of them."""
_FRONT_MATTER = re.compile(r"\A---\n(.*?)^---\s*$", re.DOTALL | re.MULTILINE)
_HF = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
_DPI = 160
_LONGEST_TAG = 80
_TAG = re.compile(r"[\w.-]+", re.ASCII)
"""Characters that Ollama reads as a tag."""


def write_card(rows: Sequence[ResultRow], root: Path, repo: str | None = None) -> list[Path]:
    """Write the card, and its plot if there is something to draw; return what was written.

    Args:
        repo: the hub's repository that it is for, so that the commands in it can be copied.
    """
    entries = load_entries(rows, root)
    summary = summarize(entries, MemoryBudget())
    written = [root / CARD]
    if _draw(summary, root / PLOT):
        written.append(root / PLOT)
    fields = _fields(entries, root)
    usage = _usage(summary, repo, embeds=_embeds(entries, root)) if repo else ""
    card = _render(_with_users_fields(fields, root), summary, usage, plot=len(written) > 1)
    note = {"card": _hash(card), "text": _hash(_text(card)), "fields": fields}
    guard.write_note(root, _NOTE, note)
    write_atomically(root / CARD, card)
    return written


def is_edited(root: Path) -> bool:
    """Whether there is a card that is not as it was written here."""
    return (root / CARD).exists() and _hash(_read(root / CARD)) != guard.read_note(root, _NOTE).get("card")


def is_rewritten(root: Path) -> bool:
    """Whether there is a card of which more than fields of the front matter is not as it was written here."""
    if not is_edited(root):
        return False
    return (
        _hash(_text(_read(root / CARD))) != guard.read_note(root, _NOTE).get("text")
        or _read_fields(root / CARD) is None
    )


def _with_users_fields(fields: Mapping[str, Any], root: Path) -> dict[str, Any]:
    """The fields, with those that the user added, changed or took out of the card that is there."""
    current, noted = _read_fields(root / CARD), guard.read_note(root, _NOTE).get("fields", {})
    if current is None:
        return dict(fields)
    kept = {key: value for key, value in current.items() if key not in noted or noted[key] != value}
    return {**{key: value for key, value in fields.items() if key in current or key not in noted}, **kept}


def _read(card: Path) -> str:
    return card.read_text(encoding="utf-8", errors="replace")


def _text(card: str) -> str:
    """A card without its front matter."""
    return _FRONT_MATTER.sub("", card, count=1).strip()


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _render(fields: Mapping[str, Any], summary: Summary, usage: str, *, plot: bool) -> str:
    source, revision = _origin(summary.entries)
    made = f" at commit {markdown_code(revision[:12])}" if revision else ""
    shown = markdown(source)
    of = f" of [{shown}](https://huggingface.co/{source})" if _is_hf(source) else f" of {shown}" if source else ""
    intro = f"GGUF files{of}{made}, made and measured with ggufkit {__version__}."
    body = render_markdown(summary).partition("\n\n")[2]
    parts = [
        _front_matter(fields),
        f"# {markdown(summary.name)} GGUF",
        intro,
        f"![Loss against file size]({PLOT})" if plot else "",
        usage,
        body,
    ]
    return "\n\n".join(part.strip("\n") for part in parts if part) + "\n"


def _front_matter(fields: Mapping[str, Any]) -> str:
    import yaml

    shown = {key: value for key, value in fields.items() if value not in (None, [], "")}
    text = yaml.safe_dump(shown, sort_keys=False, allow_unicode=True, width=1000)
    open_fields = {"base_model": "OWNER/NAME of the original", "quantized_by": "your name"}
    yours = "".join(f"# {field}: {what}\n" for field, what in open_fields.items() if field not in shown)
    return f"---\n{text}{yours}---"


def _read_fields(card: Path) -> dict[str, Any] | None:
    """The front matter of a card that is there already; None if there is none that can be read."""
    import yaml

    try:
        match = _FRONT_MATTER.match(_read(card))
        text = match[1] if match else ""
        odd = len(text) > _LONGEST_FIELDS or text.count("[") + text.count("{") > _MOST_BRACKETS
        fields = None if odd else yaml.safe_load(text)
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return None
    return fields if isinstance(fields, dict) else None


def _fields(entries: Sequence[Entry], root: Path) -> dict[str, Any]:
    """The fields that follow from the source model; None for what it does not say."""
    metadata = read_header(root / entries[0].row.file).metadata
    source, _ = _origin(entries)
    found: dict[str, Any] = {key: metadata.get(f"general.{name}") for key, name in _LICENSE_KEYS.items()}
    found["language"] = metadata.get("general.languages")
    found["base_model"] = names.on_huggingface(source) if "/" in source else None
    found["base_model_relation"] = "quantized" if found["base_model"] else None
    tags = metadata.get("general.tags")
    found["tags"] = list(dict.fromkeys([*_TAGS, *(str(t) for t in (tags if isinstance(tags, list) else []))]))
    return {
        **{k: v for k, v in found.items() if v is not None},
        "library_name": "gguf",
        "pipeline_tag": "feature-extraction" if _embeds(entries, root) else "text-generation",
    }


def _embeds(entries: Sequence[Entry], root: Path) -> bool:
    return evaluates.embeds(read_header(root / entries[0].row.file))


def _origin(entries: Sequence[Entry]) -> tuple[str, str]:
    """The hub's name of the source and its commit; "" for what is not known."""
    source = next((e.source for e in entries if e.source), "")
    revision = next((e.revision for e in entries if e.source), "")
    return split_source(source)[0], revision


def _is_hf(source: str) -> bool:
    return _HF.fullmatch(source) is not None


def _usage(summary: Summary, repo: str, *, embeds: bool) -> str:
    """How to run the file that the report would take first. It is named whole: files of several variants share a
    type, and llama.cpp looks for a type only in names without "imatrix"."""
    pick = summary.advice.pick
    if pick is None:
        return ""
    file = pick.entry.row.file
    program = "llama-embedding" if embeds else "llama-cli"
    on_modelscope, name, shown = repo.startswith("ms:"), repo.removeprefix("ms:"), shlex.quote(file)
    get = f"modelscope download --model {name} {shown}" if on_modelscope else f"{program} -hf {name} -hff {shown}"
    lines = [get]
    if len(file) <= _LONGEST_TAG and _TAG.fullmatch(file) and not embeds:
        lines.append(f"ollama run {'modelscope.cn' if on_modelscope else 'hf.co'}/{name}:{shown}")
    return markdown_block("\n".join(lines), "sh")


def _draw(summary: Summary, target: Path) -> bool:
    """Loss against size, as PNG: hubs show no SVG. False if fewer than two files were measured."""
    shown = [(e, loss) for e in summary.quality if not e.is_base and (loss := measured(e)) is not None]
    if len(shown) < 2:
        return False
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.subplots()
    with_kld = shown[0][0].row.kld_mean is not None
    for entry, loss in shown:
        row, error = entry.row, entry.row.kld_stderr if with_kld else entry.row.ppl_stderr
        axes.errorbar(row.size_bytes / 1e6, loss, yerr=error, fmt="o" if entry.recipe is None else "*", capsize=3)
    front = sorted((e.row.size_bytes / 1e6, loss) for e, loss in shown if e.row.file in summary.front)
    axes.plot(*zip(*front, strict=True), linewidth=0.8, zorder=0) if front else None
    axes.set_xlabel("file size (MB)")
    with_cosine = shown[0][0].row.cosine_mean is not None
    other = "1 − cosine similarity of embeddings" if with_cosine else "perplexity"
    axes.set_ylabel("mean KL divergence from the base (nats)" if with_kld else other)
    axes.margins(x=0.14)
    axes.grid(alpha=0.3)
    if with_kld:
        axes.set_yscale("log")
    points = [(e.row.size_bytes / 1e6, loss) for e, loss in shown]
    place(axes, [Label(e.label, *at) for (e, _), at in zip(shown, points, strict=True)], points, fontsize=9)
    figure.savefig(target, dpi=_DPI, metadata={"Software": None})
    return True
