"""A checkpoint of a hub without its weights: their headers, and holes where the values would be. Enough for a plan."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ggufkit.core.errors import CheckpointError
from ggufkit.core.jsonfile import read_json
from ggufkit.core.progress import Reporter
from ggufkit.core.units import size
from ggufkit.hub import huggingface
from ggufkit.hub.listing import Listing, RemoteFile, Repo, recall
from ggufkit.hub.obtain import Place, Snapshot, Want, cached, obtain, offline
from ggufkit.models.quantized.method import find

_TELLING = ".safetensors"
_WEIGHTS = (_TELLING, ".bin")


def fetch_headers(
    places: Sequence[Place], want: Want, directory: Path, reporter: Reporter, *, ask_first: bool = False
) -> Snapshot | None:
    """Put a repository without its weights into an empty directory: in their place are files of their headers.

    Returns:
        None where it cannot be done without the weights, which it says, and where they are in the cache already.

    Raises:
        SourceError: the repository is nowhere, or not as it should be.
    """
    if offline() or (not ask_first and any(cached(place, want) for place in places)):
        return None

    def without_weights(repo: Repo, listing: Listing) -> list[RemoteFile]:
        return [file for file in want.select(repo, listing) if not file.path.endswith(_WEIGHTS)]

    found = obtain(places, replace(want, select=without_weights), reporter, ask_first=True)
    repo, listing = found.place.repo, recall(found.place.hub, found.place.repo)
    if listing is None or listing.commit != found.commit or cached(found.place, want):
        return None
    weights = [file for file in want.select(repo, listing) if file.path.endswith(_WEIGHTS)]
    is_told = all(file.path.endswith(_TELLING) for file in weights) and not _has_shapes_inside(found.path)
    if found.place.hub.KEY != huggingface.KEY or not is_told:
        reporter.info(f"The plan of {repo} needs its weights: {size(sum(f.size for f in weights))} to download.")
        return None
    for file in without_weights(repo, listing):
        (directory / file.path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(found.path / file.path, directory / file.path)
    with reporter.step(f"Reading the headers of {repo}", len(weights)) as progress:
        for number, file in enumerate(weights, 1):
            write_hollow(directory / file.path, huggingface.read_header(repo, listing.commit, file))
            progress.update(number, len(weights), "files")
    return replace(found, path=directory)


def _has_shapes_inside(path: Path) -> bool:
    """Whether a checkpoint is quantized so that values, and not headers, tell the shapes of its weights."""
    config = path / "config.json"
    how = find(read_json(config, dict[str, Any], CheckpointError)) if config.is_file() else None
    return how is not None and how.method in ("bitsandbytes", "compressed-tensors")


def write_hollow(path: Path, header: Mapping[str, Any]) -> None:
    """Write a safetensors file of a header, as long as its tensors make it, which takes next to no disk."""
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + max((entry["data_offsets"][1] for entry in header.values()), default=0))
