"""What hubs answer, and what is kept of it."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any
from unittest.mock import patch

from benchmarks.fuzzing.mutate import mutate, mutate_json
from benchmarks.fuzzing.reader import Read, Reader
from ggufkit.core.jsonfile import is_of
from ggufkit.hub import http, huggingface, listing, modelscope
from ggufkit.hub.listing import Hub, RemoteFile, Repo

_COMMIT = "c0ffee" + "0" * 34
_NAMES = ("config.json", "model.safetensors", "tokenizer.json", "README.md", "sub")
_REPO = Repo("a/b")
_HEADER = {
    "__metadata__": {"format": "pt"},
    "a.weight": {"dtype": "F16", "shape": [2, 3], "data_offsets": [0, 12]},
}


def readers() -> list[Reader]:
    """Listings of both hubs, a header without its file, and the memory of listings."""
    tree = [
        {
            "type": "directory" if n == "sub" else "file",
            "path": n,
            "size": 9,
            "oid": "0" * 40,
            "lfs": {"oid": "0" * 64},
        }
        for n in _NAMES
    ]
    files = [
        {"Path": n, "Type": "tree" if n == "sub" else "blob", "Size": 9, "Sha256": "0" * 64, "Revision": _COMMIT,
         "CommittedDate": 1}
        for n in _NAMES
    ]  # fmt: skip
    kept = {
        "commit": _COMMIT,
        "files": [{"path": n, "size": 9, "sha256": None, "git_sha1": None} for n in _NAMES[:4]],
    }
    head = json.dumps(_HEADER).encode()
    return [
        Reader("Hugging Face", [json.dumps(tree).encode()], _from_huggingface, mutate_json, 2),
        Reader(
            "revision",
            [json.dumps({"sha": _COMMIT, "id": "a/b", "tags": ["gguf"]}).encode()],
            _revision(json.dumps(tree).encode()),
            mutate_json,
            0.5,
        ),
        Reader("ModelScope", [json.dumps({"Data": {"Files": files}}).encode()], _from_modelscope, mutate_json, 2),
        Reader("remote header", [struct.pack("<Q", len(head)) + head], _remote_header, mutate_header),
        Reader("kept listing", [json.dumps(kept).encode()], _kept, mutate_json),
    ]


def mutate_header(rng: Any, sample: bytes) -> bytes:
    """A safetensors file whose header is changed as JSON is, or whose bytes are."""
    (length,) = struct.unpack("<Q", sample[:8]) if len(sample) > 8 else (0,)
    if rng.random() < 0.4 or length + 8 > len(sample):
        return mutate(rng, sample)
    head = mutate_json(rng, sample[8 : 8 + length])
    return struct.pack("<Q", len(head)) + head + sample[8 + length :]


def _from_huggingface(data: bytes, _place: Path) -> None:
    answers = {"revision": json.dumps({"sha": _COMMIT}).encode()}
    _list(huggingface, data, answers)


def _revision(tree: bytes) -> Read:
    return lambda data, _place: _list(huggingface, tree, {"revision": data})


def _from_modelscope(data: bytes, _place: Path) -> None:
    _list(modelscope, data, {})


def _list(hub: Hub, data: bytes, answers: dict[str, bytes]) -> None:
    """Let a hub answer with the input, and with `answers` where their keys are in the address."""

    def read(_pages: http.Pages, url: str) -> tuple[bytes, str]:
        return next((answer for key, answer in answers.items() if f"/{key}/" in url), data), ""

    with patch.object(http.Pages, "_read", read):
        found = hub.list_files(_REPO)
    listing.needed(_REPO, found)
    assert all(is_of(file.size, int) and file.size >= 0 and is_of(file.path, str) for file in found.files)


def _remote_header(data: bytes, _place: Path) -> None:
    with patch.object(huggingface, "first_bytes", lambda _repo, _commit, _file, n_bytes: data[:n_bytes]):
        huggingface.read_header(_REPO, _COMMIT, RemoteFile("a.safetensors", len(data) + 12))


def _kept(data: bytes, _place: Path) -> None:
    target = listing._memory(huggingface, _REPO, None)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(data)
    found = listing.recall(huggingface, _REPO)
    if found is not None:
        listing.needed(_REPO, found)
