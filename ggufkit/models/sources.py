"""MODEL -> something local: a checkpoint directory or a .gguf file."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from ggufkit.core.errors import CheckpointError, SourceError
from ggufkit.core.part_names import stem_of
from ggufkit.core.paths import user_path
from ggufkit.core.progress import Reporter, SilentReporter
from ggufkit.core.records import Checkpoint, GgufFile
from ggufkit.hub import modelscope, names
from ggufkit.hub.listing import HubUnreachable, RepoAbsent, needed
from ggufkit.hub.obtain import Want, cached, obtain, offline
from ggufkit.llama.gguf import MAGIC, gguf_sha256, read_gguf, read_header
from ggufkit.models import pickles
from ggufkit.models.checkpoint import open_checkpoint, read_config
from ggufkit.models.headers_only import fetch_headers

_TYPE_SUFFIX = re.compile(r"[-._](?:F32|F16|BF16|I?Q\d\w*)$", re.IGNORECASE)
_HASH = re.compile(r"(?:sha256-)?(?:[0-9a-f]{40}|[0-9a-f]{64})")
_CACHED = re.compile(r"(?:models--)?[\w.-]+?--(?P<name>[\w.-]+)")
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "tekken.json", "*.tiktoken", "spiece.model")


@dataclass(frozen=True)
class SourceOptions:
    """Where to look, and what to accept.

    Args:
        hub: auto (a cache, then the hub that answers), hf, or modelscope.
        allow_pickle: accept weights in *.bin where there are no safetensors.
        fetch: get weights that are not here; without, only what their headers tell.
    """

    hub: str = "auto"
    allow_pickle: bool = False
    fetch: bool = True


def resolve(
    model: str,
    options: SourceOptions | None = None,
    reporter: Reporter | None = None,
    headers_dir: Path | None = None,
) -> Checkpoint | GgufFile:
    """What the user named, on disk and checked to be whole; from a hub it is downloaded first.

    Args:
        headers_dir: an empty directory, for a plan: a hub's checkpoint may be put there with holes for its weights.

    Raises:
        SourceError: there is nothing of that name, or the hub refuses it.
        CheckpointError, GgufError: it is not whole.
    """
    chosen, teller = options or SourceOptions(), reporter or SilentReporter()
    path = local(model, chosen.hub)
    if path is None:
        return _from_hub(model, chosen, teller, headers_dir)
    if path.is_dir():
        return _open(path, chosen, teller)
    return open_gguf(path, teller)


def open_gguf(path: Path, reporter: Reporter | None = None) -> GgufFile:
    """A GGUF on disk, with its hash, for which a large file is read once. Raises GgufError as `read_gguf` does."""
    return replace(read_gguf(path), sha256=gguf_sha256(path, reporter))


def local(model: str, hub: str = "auto") -> Path | None:
    """Where a model is on this disk; None if a hub is to be asked, which it is of nothing that is here.

    A directory of results may well be called like the alias that they are made of: then the alias is meant.

    Raises:
        SourceError: there is neither, or a file that is no GGUF.
    """
    path = user_path(model)
    if path.is_dir() and (_is_checkpoint(path) or names.find_alias(model) is None):
        return path
    if path.is_file() and path.suffix.lower() != ".gguf":
        _require_magic(path)
    if path.is_file() or path.suffix.lower() == ".gguf":
        return path
    if model.startswith((".", "/", "~")) or not names.places(model, hub):
        raise names.unknown(model)
    return None


def require_readable(model: str, hub: str = "auto") -> None:
    """Refuse at once what is on this disk and no model: only a configuration or a header is read.

    Raises:
        SourceError, CheckpointError, GgufError: it is none.
    """
    path = local(model, hub)
    if path is not None and path.is_dir():
        read_config(path)
    elif path is not None:
        read_gguf(path)


def is_local(model: str) -> bool:
    """Whether `resolve` would look on disk only."""
    try:
        return local(model) is not None
    except SourceError:
        return True


def _require_magic(path: Path) -> None:
    with path.open("rb") as file:
        if file.read(len(MAGIC)) == MAGIC:
            return
    hint = "Give a GGUF, or the directory of a checkpoint: config.json, tokenizer and *.safetensors."
    raise SourceError(f"{path} is a file, but no GGUF.", hint=hint)


def _is_checkpoint(path: Path) -> bool:
    return (path / "config.json").is_file()


def name_on_hub(model: str, hub: str = "auto") -> str | None:
    """The name of a model that a hub is asked for, None for one on disk or one whose name tells which hub answered."""
    found = {p.repo.id.partition("/")[2] for p in names.places(model, hub)} if not is_local(model) else set()
    return found.pop() if len(found) == 1 else None


def needs_modelscope(model: str, hub: str = "auto") -> bool:
    """Whether nobody but ModelScope has a model, and it will be asked: a name that its cache knows asks no hub."""
    places = names.places(model, hub) if not is_local(model) else []
    known = hub == "auto" and any(place.hub.list_cached(place.repo) is not None for place in places)
    return bool(places) and not known and all(place.hub is modelscope for place in places)


def _from_hub(model: str, options: SourceOptions, reporter: Reporter, headers_dir: Path | None) -> Checkpoint:
    want = Want(partial(needed, allow_pickle=options.allow_pickle), _require_whole)
    places, ask_first = names.places(model, options.hub), options.hub != "auto"
    try:
        found = (
            fetch_headers(places, want, headers_dir, reporter, ask_first=ask_first)
            if headers_dir is not None
            else None
        )
        if found is None and not options.fetch and not (offline() or any(cached(place, want) for place in places)):
            hint = "Let it be fetched first, or leave it out."
            raise SourceError(f"What {model} is like, only its weights tell, which are not here.", hint=hint)
        found = found or obtain(places, want, reporter, ask_first=ask_first)
    except (RepoAbsent, HubUnreachable) as error:
        if Path(model).parent != Path() and Path(model).parent.is_dir():
            raise type(error)(f"{error.message} Nor is there a local path {model}.", hint=error.hint) from error
        raise
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
    name, source = name or name_of_directory(path.resolve()), source or str(path)
    if options.allow_pickle and _is_checkpoint(path) and not any(path.glob("*.safetensors")):
        path = pickles.as_safetensors(path, reporter)
    return open_checkpoint(path, name, source, revision)


def _require_whole(path: Path) -> None:
    """What another tool left may lack shards, or have been fetched without a tokenizer."""
    if any(path.glob("*.safetensors")):
        open_checkpoint(path)
    if not any(file for pattern in _TOKENIZERS for file in path.glob(pattern)):
        raise CheckpointError(f"{path} has no tokenizer.")


def name_of_directory(path: Path) -> str:
    """The model's name from its directory's: in the caches of hubs that is a commit, a branch, or a corrected name."""
    above, home = path.parent, path.parent.parent
    if above.name == "snapshots" and (cached := _CACHED.fullmatch(home.name)):
        return cached["name"]
    return path.name.replace("___", ".") if home.name == "models" else path.name


def name_of(gguf: Path) -> str:
    """The model's name from the name of one of its files: without extension and type, and without what a part says.

    A file that is named by its hash, as Ollama's blobs are, has it in its metadata, if at all.
    """
    stem = stem_of(gguf) if gguf.suffix.lower() == ".gguf" else gguf.name
    if _HASH.fullmatch(stem):
        inside = str(read_header(gguf).metadata.get("general.name", ""))
        return re.sub(r"[^\w.+-]+", "-", inside).strip("-.") or stem
    return _TYPE_SUFFIX.sub("", stem) or stem
