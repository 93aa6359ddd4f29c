"""The commands that made and measured a file, as anybody can repeat them: without this machine's paths."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path, PurePath

from ggufkit.manifest import PARTIAL, read_manifest
from ggufkit.steps import Workspace

_KINDS = ("divergence", "perplexity", "bench")
_PRIVATE = ("--probes", "--ids")


def of_file(path: Path, workspace: Workspace) -> tuple[str, ...]:
    """Command lines for one file: how it was made, then how it was measured."""
    artefacts = [path, *(workspace.measurements / f"{path.stem}.{kind}.json" for kind in _KINDS)]
    made = [manifest for artefact in artefacts if (manifest := read_manifest(artefact)) is not None]
    return tuple(dict.fromkeys(shareable(argv) for manifest in made for argv in manifest.argv))


def source_of(path: Path) -> str:
    """What a base was converted from: a hub id, or the name of a local directory; "" if it was not converted."""
    manifest = read_manifest(path)
    source = str(manifest.notes.get("source") or "") if manifest is not None else ""
    local = source.startswith((".", "/", "~")) or "\\" in source or Path(source).exists()
    return PurePath(source).name if local else source


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


def build_command(
    source: str,
    types: Sequence[str],
    variants: Sequence[str],
    n_ctx: int | None = None,
    n_chunks: int | None = None,
    precision: float | None = None,
    kld: bool = True,
) -> str:
    """The `ggufkit build` that gives these results again."""
    words = ["ggufkit", "build", source, "--types", ",".join(types).lower()]
    words += [] if list(variants) in ([], ["plain"]) else ["--variants", ",".join(variants)]
    words += [] if n_ctx in (None, 512) else ["--ctx", str(n_ctx)]
    words += [] if n_chunks is None else ["--chunks", str(n_chunks)]
    words += [] if precision is None else ["--precision", f"{100 * precision:g}%"]
    words += [] if kld else ["--no-kld"]
    return shlex.join(words)
