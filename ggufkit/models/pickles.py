"""Pickled weights -> safetensors, in a process of its own with limits: torch reads them with `weights_only`, so no code
runs, and what they take of time and memory follows from their size.

Run as a module it converts: `python -m ggufkit.models.pickles SOURCE TARGET`.
"""

from __future__ import annotations

import json
import pickle
import shutil
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ggufkit.core import confined, process
from ggufkit.core.errors import CheckpointError
from ggufkit.core.hashing import sha256_files
from ggufkit.core.inputs import Input, unchanged
from ggufkit.core.limits import Limits
from ggufkit.core.paths import cache_dir
from ggufkit.core.process import Surroundings
from ggufkit.core.progress import Reporter
from ggufkit.models.files import files_of

_GIB = 1 << 30


def as_safetensors(path: Path, reporter: Reporter) -> Path:
    """A directory in the cache with the same checkpoint, its weights as safetensors; made once.

    Raises:
        CheckpointError: there are no pickled weights, or they hold something else than tensors.
    """
    pickled = sorted(path.glob("pytorch_model*.bin"))
    if not pickled:
        raise CheckpointError(
            f"{path} has no *.safetensors and no pytorch_model*.bin.", hint="Download the weights."
        )
    source = Input(path, sha256_files(path, _read_files(path)), _read_files)
    target = cache_dir() / "unpickled" / source.sha256[:16]
    if target.is_dir():
        return target
    for file in pickled:
        _require_plain(file)
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    log = cache_dir() / "logs" / f"unpickle-{target.name}.log"
    with reporter.step(f"Rewriting the pickled weights of {path.name} as safetensors"), unchanged([source]):
        argv: list[str | Path] = [sys.executable, "-m", "ggufkit.models.pickles", path, partial]
        allowed = _limits(pickled)
        output = process.run(argv, surroundings=Surroundings(limits=allowed), log=log)
    if output.returncode != 0:
        shutil.rmtree(partial, ignore_errors=True)
        reason = confined.how_it_ended(output, allowed)
        hint = "The file is damaged, or holds more than weights; get safetensors from the model's author."
        raise CheckpointError(f"The pickled weights of {path} cannot be read: {reason}", hint=hint, log=log)
    partial.rename(target)
    return target


def _limits(pickled: Sequence[Path]) -> Limits:
    """Several times what it takes to load the largest file, copy its tensors and write them."""
    sizes = [file.stat().st_size for file in pickled]
    return Limits(600 + 60 * (sum(sizes) >> 30), 6 * _GIB + 4 * max(sizes))


def _require_plain(file: Path) -> None:
    """Refuse an archive that would grow: torch writes its archives uncompressed, and each part once.

    Raises:
        CheckpointError: it is compressed, or its parts lie over each other.
    """
    if not zipfile.is_zipfile(file):
        return
    try:
        with zipfile.ZipFile(file) as archive:
            parts = archive.infolist()
    except zipfile.BadZipFile as error:
        raise CheckpointError(f"{file} is damaged: {error}.", hint="Download it again.") from error
    packed = any(part.compress_type != zipfile.ZIP_STORED for part in parts)
    if packed or sum(part.file_size for part in parts) > file.stat().st_size:
        message = f"{file} is no file that torch writes: its archive {'is compressed' if packed else 'overlaps'}."
        raise CheckpointError(message, hint="Get safetensors from the model's author.")


def _read_files(path: Path) -> list[Path]:
    return [*files_of(path), *sorted(path.glob("pytorch_model*.bin"))]


def _convert(source: Path, target: Path) -> None:
    """One safetensors shard for each pickled one, and an index where there are several."""
    import torch
    from safetensors.torch import save_file

    weight_map: dict[str, str] = {}
    shards = sorted(source.glob("pytorch_model*.bin"))
    for number, shard in enumerate(shards, 1):
        try:
            loaded = torch.load(shard, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError:
            sys.exit(f"{shard.name} holds more than tensors, or is damaged")
        _require_own_values(loaded)
        tensors = {n: t.detach().clone().contiguous() for n, t in loaded.items() if isinstance(t, torch.Tensor)}
        name = "model.safetensors" if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        save_file(tensors, target / name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, name)
        del loaded, tensors
    if len(shards) > 1:
        index = {"metadata": {}, "weight_map": weight_map}
        (target / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    for file in files_of(source):
        if not file.name.endswith(".bin.index.json"):
            copy = target / file.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)


def _require_own_values(loaded: Any) -> None:
    """Refuse tensors that show the same values again and again: written out, they would fill any disk."""
    import torch

    if not isinstance(loaded, dict):
        sys.exit(f"it holds a {type(loaded).__name__}, not tensors by their names")
    tensors = [t for t in loaded.values() if isinstance(t, torch.Tensor)]
    stored = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    if sum(t.numel() * t.element_size() for t in tensors) > 4 * sum(stored.values()):
        sys.exit("its tensors are far larger than what is stored of them")


if __name__ == "__main__":
    _convert(Path(sys.argv[1]), Path(sys.argv[2]))
