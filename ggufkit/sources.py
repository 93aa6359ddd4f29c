"""MODEL -> something local: a checkpoint directory or a .gguf file."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ggufkit.checkpoint import open_checkpoint
from ggufkit.errors import CheckpointError
from ggufkit.hashing import sha256_file
from ggufkit.hub import names, pickles
from ggufkit.hub.listing import needed
from ggufkit.hub.obtain import Place, Want, obtain
from ggufkit.llama.gguf import read_gguf
from ggufkit.progress import Reporter, SilentReporter
from ggufkit.records import Checkpoint, GgufFile

_TYPE_SUFFIX = re.compile(r"[-._](?:F32|F16|BF16|I?Q\d\w*)$", re.IGNORECASE)
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "tekken.json", "*.tiktoken", "spiece.model")


@dataclass(frozen=True)
class SourceOptions:
    """Where to look, and what to accept.

    Args:
        hub: auto (a cache, then the hub that answers), hf, or modelscope.
        allow_pickle: accept weights in *.bin where there are no safetensors.
    """

    hub: str = "auto"
    allow_pickle: bool = False


def resolve(
    model: str, options: SourceOptions | None = None, reporter: Reporter | None = None
) -> Checkpoint | GgufFile:
    """What the user named, on disk and checked to be whole; from a hub it is downloaded first.

    Raises:
        SourceError: there is nothing of that name, or the hub refuses it.
        CheckpointError, GgufError: it is not whole.
    """
    chosen, teller = options or SourceOptions(), reporter or SilentReporter()
    path = Path(model).expanduser()
    if path.suffix.lower() == ".gguf":
        gguf = read_gguf(path)
        return read_gguf(path, sha256_file(gguf.path, teller))
    places = [] if _is_checkpoint(path) or model.startswith((".", "/", "~")) else names.places(model, chosen.hub)
    if places:
        return _from_hub(places, chosen, teller)
    if path.is_dir():
        return _open(path, chosen, teller)
    raise names.unknown(model)


def is_local(model: str) -> bool:
    """Whether `resolve` would look on disk only."""
    path = Path(model).expanduser()
    return path.suffix.lower() == ".gguf" or path.is_dir() or not names.places(model)


def _is_checkpoint(path: Path) -> bool:
    """A directory of results may well be called like the model that they are made of."""
    return (path / "config.json").is_file()


def _from_hub(places: list[Place], options: SourceOptions, reporter: Reporter) -> Checkpoint:
    want = Want(partial(needed, allow_pickle=options.allow_pickle), _require_whole)
    found = obtain(places, want, reporter, ask_first=options.hub != "auto")
    repo = found.place.repo
    name = repo.id.partition("/")[2]
    source = repo.id if found.place.hub.KEY == "hf" else f"ms:{repo.id}"
    return _open(found.path, options, reporter, name, source, found.commit)


def _open(
    path: Path,
    options: SourceOptions,
    reporter: Reporter,
    name: str | None = None,
    source: str | None = None,
    revision: str | None = None,
) -> Checkpoint:
    name, source = name or path.resolve().name, source or str(path)
    if options.allow_pickle and _is_checkpoint(path) and not any(path.glob("*.safetensors")):
        path = pickles.as_safetensors(path, reporter)
    return open_checkpoint(path, name, source, revision)


def _require_whole(path: Path) -> None:
    """What another tool left may lack shards, or have been fetched without a tokenizer."""
    if any(path.glob("*.safetensors")):
        open_checkpoint(path)
    if not any(file for pattern in _TOKENIZERS for file in path.glob(pattern)):
        raise CheckpointError(f"{path} has no tokenizer.")


def name_of(gguf: Path) -> str:
    """The model's name from the name of one of its files: without extension and type."""
    return _TYPE_SUFFIX.sub("", gguf.stem) or gguf.stem
