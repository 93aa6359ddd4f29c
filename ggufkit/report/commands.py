"""The commands that made and measured a file, as anybody can repeat them: without this machine's paths."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path, PurePath

from ggufkit.core.manifest import PARTIAL
from ggufkit.models import published
from ggufkit.models.lora import split_source
from ggufkit.recipes.type_recipe import recipe_path
from ggufkit.report.lineage import Piece, origin_of
from ggufkit.report.settings import in_words
from ggufkit.steps import guest, quantize
from ggufkit.steps.guest import GuestNotes
from ggufkit.steps.quantize import QuantizeParams

_PRIVATE = ("--probes", "--ids")


def lines(pieces: Sequence[Piece]) -> tuple[str, ...]:
    """Command lines of what made and measured a file; steps inside ggufkit as comments."""
    found = [line for piece in pieces for line in _of_piece(piece)]
    return tuple(dict.fromkeys(" ".join(line.split()) if line.startswith("#") else line for line in found))


def _of_piece(piece: Piece) -> list[str]:
    found = [_by_recipe(piece, argv) if _has_recipe(piece) else argv for argv in piece.made.argv]
    return [shareable(argv) for argv in found] or [line for line in [in_words(piece)] if line]


def _has_recipe(piece: Piece) -> bool:
    """Whether a file was quantized by a recipe that lies beside it."""
    by_recipe = piece.made.step == quantize.STEP and QuantizeParams.from_manifest(piece.made).recipe
    return bool(by_recipe) and recipe_path(piece.path).is_file()


def _by_recipe(piece: Piece, argv: Sequence[str]) -> list[str]:
    """The same command of ggufkit: that of llama-quantize names the type of each tensor, of hundreds."""
    *options, base, _output, _type, _threads = argv[1:]
    return [
        "ggufkit",
        "quantize",
        base,
        "--recipe",
        recipe_path(piece.path).name,
        *_without(options, ("--tensor-type",)),
    ]


def source_of(lineage: Sequence[Piece]) -> tuple[str, str]:
    """What a base was converted from, and its commit: a hub id, or the name of a local file or directory; "" for
    what is not known."""
    noted = origin_of(lineage)
    if not noted.source:
        return "", ""
    source, (origin, _) = noted.source, split_source(noted.source)
    here = origin.startswith((".", "/", "~")) or "\\" in origin or origin.lower().endswith(".gguf")
    local = here or Path(origin).exists()
    return (PurePath(source.replace("\\", "/")).name if local else source), noted.revision or ""


def guest_of(lineage: Sequence[Piece]) -> str:
    """What a file of somebody else's is to be asked for by; "" for one that was made here."""
    if not lineage or lineage[-1].made.step != guest.STEP:
        return ""
    source = GuestNotes.from_manifest(lineage[-1].made).source
    return source if published.is_at_hub(source) else PurePath(source.replace("\\", "/")).name


def shareable(argv: Sequence[str]) -> str:
    """One command line with base names for paths."""
    words = list(argv)
    if words[1:3] == ["-m", "ggufkit.llama.launcher"]:
        words = ["python", "convert_hf_to_gguf.py", *_without(words[4:], _PRIVATE)]
    return shlex.join(_name(word) for word in words)


def _without(words: Sequence[str], options: Sequence[str]) -> list[str]:
    return [w for i, w in enumerate(words) if w not in options and (i == 0 or words[i - 1] not in options)]


def _name(word: str) -> str:
    if not re.search(r"[/\\]", word):
        return word
    name = PurePath(word.replace("\\", "/")).name.removesuffix(PARTIAL)
    return "base.logits" if name.endswith((".logits", ".pipe")) else name
