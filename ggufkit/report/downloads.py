"""What a model card says of the files to be had: which there are, where, how good each is, and how it was made."""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tabulate import tabulate

from ggufkit.core import variants
from ggufkit.core.escape import markdown, markdown_block, markdown_code
from ggufkit.core.part_names import part_name
from ggufkit.core.units import size
from ggufkit.core.variants import Variant
from ggufkit.hub.addresses import Address
from ggufkit.llama.mmproj import PREFIX
from ggufkit.recipes.type_recipe import recipe_path
from ggufkit.report.data import Entry
from ggufkit.report.losses import plainness
from ggufkit.report.markdown import file_name
from ggufkit.report.recommend import Advice
from ggufkit.report.summary import Summary

_LONGEST_TAG = 80
_TAG = re.compile(r"[\w.-]+", re.ASCII)
"""Characters that Ollama reads as a tag."""
_MATRIX = ".imatrix"
_ABOUT_PARTS = "Of a file in parts get all of them, and tell llama.cpp the first; Ollama takes none."


@dataclass(frozen=True)
class Shelf:
    """What a repository holds, or will.

    Args:
        files: the names of the files that hold each GGUF, itself or its parts; a GGUF that is not there is missing.
        names: of all its files.
        chat: how the template was proven that is there for Ollama, "" where there is none.
        prompt: what the model's own template makes of a short chat, "" where that is not known.
    """

    address: Address
    files: Mapping[str, Sequence[str]]
    names: Collection[str] = ()
    chat: str = ""
    prompt: str = ""

    @classmethod
    def of(cls, repo: str, files: Sequence[str]) -> Shelf:
        """A repository that holds these GGUFs whole."""
        return cls(Address(repo), {file: (file,) for file in files}, files)

    def link(self, name: str) -> str:
        """A file's name, which leads to its content if it is there."""
        shown = markdown_code(name, cell=True)
        return f"[{shown}]({self.address.link(name)})" if name in self.names else shown


def usage(advice: Advice, shelf: Shelf, *, embeds: bool) -> str:
    """How to run the file to take. llama.cpp is told its whole name: of several files of a type it would take any, and of
    those with "imatrix" in their names none."""
    files = shelf.files.get(advice.pick.entry.row.file, ()) if advice.pick is not None else ()
    if advice.pick is None or not files:
        return ""
    address, file = shelf.address, shlex.quote(files[0])
    program = "llama-embedding" if embeds else "llama-cli"
    get = (
        f"modelscope download --model {address.name}"
        if address.on_modelscope
        else f"{program} -hf {address.name} -hff"
    )
    chosen = f"--include {shlex.quote(_pattern(files))}" if address.on_modelscope and len(files) > 1 else file
    lines = [f"{address.environment}{get} {chosen}"]
    tag = _tag(advice.pick.entry, shelf)
    if address.ollama is not None and len(files) == 1 and tag and not embeds:
        lines.append(f"ollama run {address.ollama}:{tag}")
    return markdown_block("\n".join(lines), "sh")


def _tag(entry: Entry, shelf: Shelf) -> str:
    """How Ollama is told a file: by its type where that is of one file only, else by its name; "" where it takes none."""
    kind, file = entry.row.type, entry.row.file
    of_type = re.compile(rf"(?<![a-z0-9]){re.escape(kind)}(?![a-z0-9_])", re.IGNORECASE)
    alike = [name for name in shelf.files if of_type.search(name)]
    if entry.recipe is None and alike == [file]:
        return kind
    return file if len(file) <= _LONGEST_TAG and _TAG.fullmatch(file) else ""


def _pattern(files: Sequence[str]) -> str:
    """What fits all files that hold a GGUF, and nothing else."""
    named = part_name(Path(files[0]))
    return named.pattern if named is not None else files[0]


def table(summary: Summary, shelf: Shelf | None) -> str:
    """The files to be had, "" where there are none: link, type, size, parts and what each is like.

    The largest type comes first, and of a type the plainest file.
    """
    there = [e for e in summary.entries if shelf is None or e.row.file in shelf.files]
    ordered = sorted(there, key=lambda e: (-round(e.row.bpw, 2), e.row.type, plainness(e.row.variant), e.row.file))
    columns = [
        ("File", [links(e, shelf) for e in ordered]),
        ("Type", [markdown(e.label) for e in ordered]),
        ("Size", [size(e.row.size_bytes) for e in ordered]),
        ("Parts", [str(len(shelf.files[e.row.file])) if shelf else "1" for e in ordered]),
        ("In words", [_words(e, summary.advice) for e in ordered]),
    ]
    shown = [(head, cells) for head, cells in columns if head not in ("Parts",) or set(cells) - {"1"}]
    shown = [(head, cells) for head, cells in shown if any(cells)]
    body = list(zip(*(cells for _, cells in shown), strict=True))
    align = ["right" if head in ("Size", "Parts") else "left" for head, _ in shown]
    return tabulate(body, [head for head, _ in shown], tablefmt="github", disable_numparse=True, colalign=align)


def links(entry: Entry, shelf: Shelf | None) -> str:
    """A file's name, which leads to its content; behind that of one in parts a link for each."""
    files = shelf.files.get(entry.row.file, ()) if shelf is not None else ()
    if shelf is None or not files:
        return file_name(entry)
    if len(files) == 1:
        return shelf.link(files[0])
    numbers = " ".join(f"[{i}]({shelf.address.link(file)})" for i, file in enumerate(files, 1))
    return f"{file_name(entry)}: {numbers}"


def _words(entry: Entry, advice: Advice) -> str:
    """What a file is like in plain words, whether it is the one to take, and its step of the ladder."""
    rung = next((r for r in advice.ladder if r.entry.row.file == entry.row.file), None)
    words = rung.words if rung is not None and rung.words else advice.words.get(entry.row.file, "")
    step = f"**{markdown(rung.name)}**" if rung is not None and rung.name else ""
    take = "**take this one**" if rung is not None and rung.is_pick else ""
    return ": ".join(filter(None, (take, ", ".join(filter(None, (step, markdown(words)))))))


def ways(summary: Summary, shelf: Shelf) -> str:
    """How to download a file, and one in parts."""
    pick = summary.advice.pick
    whole = [e.row.file for e in summary.entries if len(shelf.files.get(e.row.file, ())) == 1]
    split = [files for files in shelf.files.values() if len(files) > 1]
    single = pick.entry.row.file if pick is not None and pick.entry.row.file in whole else next(iter(whole), None)
    lines = [] if single is None else [shelf.address.download(single)]
    lines += [shelf.address.download(_pattern(split[0]))] if split else []
    block = markdown_block("\n".join(lines), "sh") if lines else ""
    return "\n\n".join(filter(None, (block, _ABOUT_PARTS if split else "")))


def how_made(summary: Summary, shelf: Shelf | None) -> str:
    """What was done besides choosing types, on which text, with which files; and what chats look like."""
    entries = summary.entries
    names = {e.row.variant for e in entries}
    kinds = [found for name in variants.names() if name in names and (found := variants.known(name)) is not None]
    lines = [f"- {markdown_code(v.name)}: {_what_is_done(v)}." for v in kinds]
    facts = dict.fromkeys(fact for e in entries for fact in e.calibration)
    lines += [f"- {markdown(label)}: {markdown(value)}." for label, value in facts]
    commits = sorted({e.row.llama_cpp_commit for e in entries if e.row.llama_cpp_commit})
    lines += [f"- llama.cpp: {', '.join(map(markdown_code, commits))}."] if commits else []
    if shelf is not None:
        lines += _made_with(summary, shelf)
    return "\n\n".join(filter(None, ("\n".join(lines), _prompt(shelf))))


def _what_is_done(variant: Variant) -> str:
    by_packages = [m.title for m in variant.methods if m.package]
    done = [
        *(["scaled by AWQ, its function unchanged"] if variant.awq else []),
        "quantized by llama.cpp" + (" with an importance matrix" if variant.imatrix else ""),
        *(["its rounding improved by GPTQ within llama.cpp's own formats, same bytes"] if variant.refined else []),
        *(f"changed by {markdown(title)}" for title in by_packages),
    ]
    return ", ".join(done)


def _made_with(summary: Summary, shelf: Shelf) -> list[str]:
    """Files of the repository that others can make the same with, and what Ollama reads."""
    matrices = sorted(name for name in shelf.names if name.endswith(_MATRIX))
    recipes = [recipe_path(Path(told.entry.row.file)).name for told in summary.recipes]
    there = [name for name in recipes if name in shelf.names]
    lines = [f"- Importance matrix: {', '.join(map(shelf.link, matrices))}."] if matrices else []
    lines += [f"- Types of each tensor, and why: {', '.join(map(shelf.link, there))}."] if there else []
    projectors = sorted(name for name in shelf.names if name.startswith(PREFIX))
    lines += [f"- Images or sound, for all files: {', '.join(map(shelf.link, projectors))}."] if projectors else []
    if shelf.chat:
        files = [shelf.link(name) for name in ("template", "system", "params") if name in shelf.names]
        lines.append(f"- For Ollama: {', '.join(files)}. {markdown(shelf.chat)}")
    return lines


def _prompt(shelf: Shelf | None) -> str:
    return (
        f"Prompt format:\n\n{markdown_block(shelf.prompt.rstrip())}" if shelf is not None and shelf.prompt else ""
    )
