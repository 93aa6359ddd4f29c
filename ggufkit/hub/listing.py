"""What a hub says a repository holds: which of it a conversion needs, and whether a file on disk is it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Protocol
from urllib.parse import quote

from ggufkit.core.errors import InputError, SourceError
from ggufkit.core.hashing import sha256_file
from ggufkit.core.jsonfile import read_json
from ggufkit.core.manifest import write_atomically
from ggufkit.core.paths import cache_dir
from ggufkit.core.progress import Reporter

CHECKPOINT_FILES = (
    "*.json",
    "*.safetensors",
    "*.model",
    "*.txt",
    "*.jinja",
    "*.tiktoken",
    "*.md",
    "tokenizer.jsonl",
)
"""What a conversion may read of a checkpoint."""

MAX_FILES = 100_000
"""Of a repository: Hugging Face advises against more."""
MAX_FILE_BYTES = 1 << 40
"""No hub takes larger files: Hugging Face's limit is half of it."""
_LONGEST_MEMORY = 64 << 20
"""Bytes of a listing that is kept: so many files, of 300 bytes each, and room."""
_LONGEST_NAME = 255
"""Bytes of a part of a path, which is what file systems can name."""
_OTHER_SYSTEM = re.compile(r'[\\:*?"<>|]')
_CONTROL = re.compile(r"[\0-\x1f\x7f-\x9f\ud800-\udfff]")
_DISTRUST = "Do not use this repository; tell the hub about it."

_SHARD = re.compile(r"model(-\d+-of-\d+)?\.safetensors")
_BELOW = re.compile(r"additional_chat_templates/[^/]+\.jinja|\d+_\w+/config\.json")
"""What is read of directories below: further chat templates, and how an encoder of sentence-transformers pools."""
_PICKLE = re.compile(r"pytorch_model(-\d+-of-\d+)?\.bin")


class HubUnreachable(SourceError):
    """A hub that did not answer at all; another one may."""


class RepoAbsent(SourceError):
    """There is no such repository or revision, or nothing in it, or it does not show itself to this user."""


@dataclass(frozen=True)
class Repo:
    """A repository. `revision` is a branch, tag or commit, None for the default; `kind` is model or dataset."""

    id: str
    revision: str | None = None
    kind: str = "model"

    @property
    def slug(self) -> str:
        """A file name for it."""
        return f"{self.kind}s--{self.id.replace('/', '--')}"

    def __str__(self) -> str:
        return self.id if self.revision is None else f"{self.id}@{self.revision}"


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository: size in bytes, and the hash that the hub gives: of LFS or of git."""

    path: str
    size: int
    sha256: str | None = None
    git_sha1: str | None = None


@dataclass(frozen=True)
class Listing:
    """A repository at one commit."""

    commit: str
    files: tuple[RemoteFile, ...]


class Hub(Protocol):
    """What a hub can do; each of the modules beside this one is one."""

    KEY: str
    TITLE: str

    def host(self) -> str:
        """The address in use."""

    def list_files(self, repo: Repo) -> Listing:
        """Ask the hub. Raises SourceError, HubUnreachable when it does not answer."""

    def list_cached(self, repo: Repo) -> Listing | None:
        """What the hub's own tools left in its cache, as far as can be told."""

    def directory(self, repo: Repo, commit: str) -> Path:
        """Where the hub's cache keeps, or would keep, the files of a commit."""

    def first_bytes(self, repo: Repo, commit: str, file: RemoteFile, n_bytes: int) -> bytes:
        """The beginning of a file. Raises SourceError where the hub refuses."""

    def fetch(self, repo: Repo, listing: Listing, files: Sequence[RemoteFile], reporter: Reporter) -> Path:
        """Bring files into the hub's cache and return their directory."""


def require_sane(repo: Repo, listing: Listing) -> Listing:
    """A listing as a hub gave it, if it can be one.

    Raises:
        SourceError: a size or a hash is none, a name is used twice, or there is no end to its files.
    """
    if len(listing.files) > MAX_FILES:
        raise SourceError(f"{repo} lists {len(listing.files):,} files.", hint=f"At most {MAX_FILES:,} are read.")
    for file in listing.files:
        if not 0 <= file.size <= MAX_FILE_BYTES:
            raise _odd(repo, file, f"with a size of {file.size:,} bytes")
        if not _is_hash(file.sha256, 64) or not _is_hash(file.git_sha1, 40):
            raise _odd(repo, file, "with a hash that is none")
    names = [str(PurePosixPath(file.path)) for file in listing.files]
    if (twice := _twice(names)) is not None:
        raise SourceError(f"{repo} lists {twice!r} twice: nothing was downloaded.", hint=_DISTRUST)
    return listing


def _twice(names: Sequence[str]) -> str | None:
    """A name that two files have, or a file and the directory of another."""
    seen = set[str]()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    parents = {str(above) for name in names for above in PurePosixPath(name).parents}
    return next((name for name in names if name in parents), None)


def _is_hash(given: str | None, length: int) -> bool:
    return given is None or re.fullmatch(f"[0-9a-f]{{{length}}}", given) is not None


def _odd(repo: Repo, file: RemoteFile, what: str) -> SourceError:
    message = f"{repo} lists a file {file.path!r} {what}: nothing was downloaded."
    return SourceError(message, hint=_DISTRUST)


def require_safe(repo: Repo, files: Iterable[RemoteFile]) -> None:
    """Refuse a list that names a file outside its repository, or as no file can be called.

    Raises:
        SourceError: a path is absolute, climbs with "..", is written for another system, or is too long.
    """
    for file in files:
        path = PurePosixPath(file.path)
        if _CONTROL.search(file.path):
            raise _odd(repo, file, "with control characters in its name")
        if not path.parts or path.is_absolute() or ".." in path.parts or _OTHER_SYSTEM.search(file.path):
            raise _odd(repo, file, "which lies outside of it")
        if max(len(part.encode()) for part in path.parts) > _LONGEST_NAME:
            raise _odd(repo, replace(file, path=file.path[:40] + "…"), "whose name is too long for a disk")


def require_there(repo: Repo, where: Path, files: Iterable[RemoteFile]) -> None:
    """Raise SourceError where a name does not lead to its content: a disk may take two names for one."""
    for file in files:
        if defect(where / file.path, file):
            message = (
                f"{file.path!r} of {repo} is not what was downloaded: another of its files has that name here."
            )
            raise SourceError(message, hint="Use a disk that tells upper from lower case.")


def needed(repo: Repo, listing: Listing, *, allow_pickle: bool = False) -> list[RemoteFile]:
    """The files that a conversion reads: configuration, tokenizer, model card, and one set of weights.

    Raises:
        SourceError: an unsafe path, no config.json, no weights, or none but pickled ones.
    """
    require_safe(repo, listing.files)
    top = [file for file in listing.files if "/" not in file.path]
    names = {file.path for file in top}
    if "config.json" not in names:
        adapter = "adapter_config.json" in names
        hint = "It is an adapter: give its base model, and --lora DIR." if adapter else _no_weights_hint(names)
        raise SourceError(f"{repo} has no config.json: it is no checkpoint.", hint=hint)
    weights = _weights(repo, top, allow_pickle)
    rest = [
        f for f in top if f.path.endswith(_suffixes()) and any(fnmatchcase(f.path, p) for p in CHECKPOINT_FILES)
    ]
    below = [f for f in listing.files if _BELOW.fullmatch(f.path)]
    return sorted([*rest, *below, *weights], key=lambda file: file.path)


def _suffixes() -> tuple[str, ...]:
    return tuple(pattern.removeprefix("*") for pattern in CHECKPOINT_FILES if pattern != "*.safetensors")


def _weights(repo: Repo, top: Sequence[RemoteFile], allow_pickle: bool) -> list[RemoteFile]:
    tensors = [f for f in top if f.path.endswith(".safetensors") and not f.path.startswith("adapter")]
    if tensors:
        shards = [f for f in tensors if _SHARD.fullmatch(f.path)]
        return shards or [f for f in tensors if not f.path.startswith("consolidated")] or tensors
    pickled = [f for f in top if _PICKLE.fullmatch(f.path)]
    if not pickled:
        raise SourceError(f"{repo} holds no weights.", hint=_no_weights_hint({f.path for f in top}))
    if not allow_pickle:
        raise SourceError(
            f"{repo} has pickled weights only ({pickled[0].path}); a pickle can hold any program.",
            hint="Accept them with --allow-pickle: they are then read with torch's weights_only.",
        )
    return pickled


def _no_weights_hint(names: set[str]) -> str:
    if any(name.endswith(".gguf") for name in names):
        return "It holds GGUF files already: download one and give its path, or give the original repository."
    return "Give a repository with config.json and *.safetensors."


def defect(path: Path, file: RemoteFile) -> str | None:
    """Why `path` is not the file that the hub lists, or None if it is."""
    if not path.is_file():
        return "is not there"
    size = path.stat().st_size
    if size != file.size:
        return f"has {size:,} bytes, the hub says {file.size:,}"
    if file.sha256 is not None and (found := sha256_file(path)) != file.sha256:
        return f"has SHA-256 {found}, the hub says {file.sha256}"
    if file.sha256 is None and file.git_sha1 is not None and (found := git_sha1(path)) != file.git_sha1:
        return f"has git hash {found}, the hub says {file.git_sha1}"
    return None


def is_content(content: bytes, file: RemoteFile) -> bool:
    """Whether bytes are the file that the hub lists; not so if it gives no hash."""
    if len(content) != file.size:
        return False
    if file.sha256 is not None:
        return hashlib.sha256(content).hexdigest() == file.sha256
    blob = f"blob {len(content)}\0".encode() + content
    return hashlib.sha1(blob, usedforsecurity=False).hexdigest() == file.git_sha1


def git_sha1(path: Path) -> str:
    """The hash by which git knows a file's content."""
    digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def remember(hub: Hub, repo: Repo, listing: Listing) -> None:
    """Keep a listing: with it, finished downloads are used again without asking the hub."""
    for key in {repo.revision, listing.commit}:
        file = _memory(hub, repo, key)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, json.dumps(asdict(listing)))


def recall(hub: Hub, repo: Repo) -> Listing | None:
    """The listing of a repository as the hub last gave it; None if it never did."""
    try:
        return read_json(_memory(hub, repo, repo.revision), Listing, limit=_LONGEST_MEMORY)
    except InputError:
        return None


def _memory(hub: Hub, repo: Repo, revision: str | None) -> Path:
    return cache_dir() / "hub" / f"{hub.KEY}--{repo.slug}--{quote(revision or 'default', safe='')}.json"


def lock_file(hub: Hub, repo: Repo) -> Path:
    """What to hold while a repository is downloaded."""
    return cache_dir() / "hub" / f"{hub.KEY}--{repo.slug}.lock"
