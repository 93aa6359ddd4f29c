"""Pickled weights -> safetensors, in a process of its own: torch reads them with `weights_only`, so no code runs.

Run as a module it converts: `python -m ggufkit.models.pickles SOURCE TARGET`.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

from ggufkit.core import process
from ggufkit.core.errors import CheckpointError
from ggufkit.core.hashing import sha256_files
from ggufkit.core.inputs import Input, unchanged
from ggufkit.core.paths import cache_dir
from ggufkit.core.progress import Reporter
from ggufkit.models.files import files_of


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
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    log = cache_dir() / "logs" / f"unpickle-{target.name}.log"
    with reporter.step(f"Rewriting the pickled weights of {path.name} as safetensors"), unchanged([source]):
        output = process.run([sys.executable, "-m", "ggufkit.models.pickles", path, partial], log=log)
    if output.returncode != 0:
        shutil.rmtree(partial, ignore_errors=True)
        reason = (output.stderr.strip().splitlines() or ["torch said nothing"])[-1]
        hint = "The file is damaged, or holds more than weights; get safetensors from the model's author."
        raise CheckpointError(f"The pickled weights of {path} cannot be read: {reason}", hint=hint, log=log)
    partial.rename(target)
    return target


def _read_files(path: Path) -> list[Path]:
    return [*files_of(path), *sorted(path.glob("pytorch_model*.bin"))]


def _convert(source: Path, target: Path) -> None:
    """One safetensors shard for each pickled one, and an index where there are several."""
    import torch
    from safetensors.torch import save_file

    weight_map: dict[str, str] = {}
    shards = sorted(source.glob("pytorch_model*.bin"))
    for number, shard in enumerate(shards, 1):
        loaded = torch.load(shard, map_location="cpu", weights_only=True)
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


if __name__ == "__main__":
    _convert(Path(sys.argv[1]), Path(sys.argv[2]))
