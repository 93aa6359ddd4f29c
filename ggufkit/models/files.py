"""Which files of a checkpoint's directory are read, and that each is what its name says: what is hashed is what is read."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

from ggufkit.core.errors import CheckpointError
from ggufkit.core.hashing import sha256_files
from ggufkit.core.jsonfile import LFS_POINTER, read_json
from ggufkit.core.progress import Reporter
from ggufkit.hub.listing import CHECKPOINT_FILES

INDEX = "model.safetensors.index.json"

_WHOLE = "model.safetensors"
_NAMES = f"{_WHOLE}, or model-00001-of-0000N.safetensors … with {INDEX}"
_PART = re.compile(r"(?P<stem>model.*)-(?P<i>\d+)-of-(?P<n>\d+)\.safetensors")
# Read by the converter or by transformers. Of another file that is a pointer nobody notices.
_READ = re.compile(
    r"(config|generation_config|tokenizer.*|vocab|merges|added_tokens|special_tokens_map|chat_template.*|tekken|modules"
    r"|hf_quant_config|preprocessor_config|processor_config)\.(json|txt)|.*\.(model|tiktoken|jinja|safetensors|index\.json)"
)
_SETTINGS = re.compile(r"(generation_config|tokenizer_config|special_tokens_map|added_tokens|vocab)\.json")
_SETTINGS_BYTES = 64 << 20
_INDEX_BYTES = 100_000_000
_LONGEST_NAME, _DEEPEST = 255, 16
_SHOWN = 4


@dataclass(frozen=True)
class _Index:
    weight_map: dict[str, str]


@dataclass(frozen=True)
class _Module:
    """A row of sentence-transformers' modules.json."""

    path: str = ""


def files_of(path: Path) -> list[Path]:
    """The files of a checkpoint that a conversion may read, sorted by name; those of sub-directories included."""
    top = {f for pattern in CHECKPOINT_FILES for f in path.glob(pattern) if f.is_file()}
    weights = {path / name for name in _weight_names(path)}
    rest = {f for f in top if f.suffix != ".safetensors"}
    return sorted({f for f in (*rest, *weights, *_below(path)) if f.is_file()})


def fingerprint(path: Path, reporter: Reporter | None = None, stop: threading.Event | None = None) -> str:
    """SHA-256 over all files that a conversion may read; `stop` ends it when set, by Interrupted."""
    return sha256_files(path, files_of(path), reporter, stop)


def require_readable(path: Path) -> None:
    """Look at every file that will be read before anything runs.

    Raises:
        CheckpointError: one is a pointer of Git LFS, a link to nothing, empty, or lies outside of the directory.
    """
    for file in sorted(path.iterdir()):
        if file.is_symlink() and not file.exists() and _READ.fullmatch(file.name):
            message = f"{file} is a link to {file.readlink()}, which is not there."
            raise CheckpointError(message, hint="Its download did not end: download the checkpoint again.")
    root = path.resolve()
    for file in files_of(path):
        target = file.resolve()
        if not (target.is_relative_to(root) or _is_of_a_hub(target, root)):
            message = f"{file} leads to {target}, which is outside of the checkpoint."
            raise CheckpointError(
                message, hint="Put the file itself there: a checkpoint is read as one directory."
            )
        if _READ.fullmatch(file.name):
            _require_content(file)


def _is_of_a_hub(target: Path, root: Path) -> bool:
    """Whether a file is in a hub's cache: snapshots link to it, and so do the directories of older downloads."""
    if root.parent.name == "snapshots" and target.is_relative_to((root.parent.parent / "blobs").resolve()):
        return True
    return target.parent.name == "blobs" and target.parent.parent.name.startswith("models--")


def _require_content(file: Path) -> None:
    try:
        with file.open("rb") as stream:
            start = stream.read(len(LFS_POINTER))
    except OSError as error:
        message = f"{file} cannot be read: {error.strerror or error}."
        raise CheckpointError(message, hint="Check its permissions.") from error
    if start == LFS_POINTER:
        message = f"{file} is a pointer of Git LFS, not the file itself."
        raise CheckpointError(message, hint=f"Fetch the files: `git lfs pull`, in {file.parent}.")
    if not start and file.suffix in (".json", ".model"):
        raise CheckpointError(f"{file} is empty.", hint="Download it again; in a git repository: `git lfs pull`.")
    if _SETTINGS.fullmatch(file.name):
        read_json(file, dict[str, Any], CheckpointError, limit=_SETTINGS_BYTES)


def weight_files(path: Path) -> tuple[list[Path], frozenset[str]]:
    """The files that hold the weights, and the tensors that the index promises (none without an index).

    Raises:
        CheckpointError: there are none under a name that is read, more than one set, or not all of a set.
    """
    index = _read_index(path)
    names = _weight_names(path, index)
    if not names:
        raise _no_weights(path)
    there = {f.name for f in path.glob("model*.safetensors")}
    if index is not None and _WHOLE in there and _WHOLE not in names:
        message = f"{path} holds {_WHOLE} beside the shards of {INDEX}: transformers reads the one, llama.cpp the others."
        raise CheckpointError(message, hint="Keep the one set that is right, and move the other elsewhere.")
    missing = (name for name in names if not (path / name).is_file()) if index else _missing_parts(path, names)
    if first := list(islice(missing, _SHOWN + 1)):
        shown = ", ".join(first[:_SHOWN]) + (" …" if len(first) > _SHOWN else "")
        of = f" of {len(names)} shards" if index else ""
        raise CheckpointError(f"{path} lacks {shown}{of}.", hint=f"Download the missing files, and {INDEX}.")
    return [path / name for name in names], frozenset(index.weight_map if index else ())


def _weight_names(path: Path, index: _Index | None = None) -> list[str]:
    """The weights' files, relative to the directory, as the converter chooses them."""
    index = index or _read_index(path)
    if index is not None:
        return sorted(set(index.weight_map.values()))
    return sorted(f.name for f in path.glob("model*.safetensors") if f.is_file())


def _read_index(path: Path) -> _Index | None:
    file = path / INDEX
    if not file.is_file():
        return None
    index = read_json(file, _Index, CheckpointError, limit=_INDEX_BYTES)
    for name in set(index.weight_map.values()):
        _require_inside(file, name)
    return index


def _require_inside(file: Path, name: str) -> None:
    parts = PurePosixPath(name)
    hint = "Do not use this checkpoint, or correct its index."
    if not parts.parts or parts.is_absolute() or ".." in parts.parts or "\\" in name or "\0" in name:
        raise CheckpointError(f"{file} names {name!r}, which is outside of the checkpoint.", hint=hint)
    if max(len(part.encode()) for part in parts.parts) > _LONGEST_NAME or len(parts.parts) > _DEEPEST:
        raise CheckpointError(f"{file} names {name[:80]!r}…, which no file can be called.", hint=hint)


def _missing_parts(path: Path, names: Sequence[str]) -> Iterator[str]:
    """Shards without an index tell by their names how many there should be."""
    parts = [part for name in names if (part := _PART.fullmatch(name)) is not None]
    if list(names) == [_WHOLE]:
        return
    if not parts and _WHOLE not in names:
        raise _no_weights(path)
    if len(parts) != len(names) or len({(part["stem"], part["n"]) for part in parts}) > 1:
        message = f"{path} holds weights under several names: {', '.join(names[:_SHOWN])}. Read are {_NAMES}."
        raise CheckpointError(message, hint="Keep the one set that is right, and move the others elsewhere.")
    there, stem, n = set(names), parts[0]["stem"], parts[0]["n"]
    expected = (f"{stem}-{i:0{len(n)}d}-of-{n}.safetensors" for i in range(1, int(n) + 1))
    yield from (name for name in expected if name not in there)


def _no_weights(path: Path) -> CheckpointError:
    if others := sorted(f.name for f in path.glob("*.safetensors")):
        message = (
            f"{path} has no weights under a name that is read: {_NAMES}. It has {', '.join(others[:_SHOWN])}."
        )
        return CheckpointError(message, hint=f"If that is the whole model, rename it to {_WHOLE}.")
    hint = "Download the weights."
    if any(path.glob("*.bin")) or any(path.glob("*.pth")):
        hint = "It has pickled weights only (*.bin): save it again with safe_serialization, or use --allow-pickle."
    return CheckpointError(f"{path} has no *.safetensors.", hint=hint)


def _below(path: Path) -> Iterable[Path]:
    """What is read of sub-directories besides weights: further chat templates, and how an encoder pools."""
    yield from (path / "additional_chat_templates").glob("*.jinja")
    file = path / "modules.json"
    if not file.is_file():
        return
    for module in read_json(file, list[_Module], CheckpointError):
        if module.path:
            _require_inside(file, module.path)
            yield path / module.path / "config.json"
