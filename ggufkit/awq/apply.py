"""Fold scales into a checkpoint, shard by shard: same files, same tensors, same function."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO

import torch

from ggufkit.awq.archs import folds_in_layer, folds_of
from ggufkit.awq.fold import Heads, Scales, edit, edits, settle
from ggufkit.core.errors import CheckpointError, InputError, ResourceError
from ggufkit.core.jsonfile import read_json
from ggufkit.core.manifest import write_atomically
from ggufkit.core.progress import Reporter
from ggufkit.layers import Shards, StreamedModel
from ggufkit.layers.shards import DTYPES, module_name
from ggufkit.models.files import files_of
from ggufkit.models.tensor_headers import StoredTensor

_INDEX = "model.safetensors.index.json"
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".onnx")
_COPY_BYTES = 1 << 24
_INDEX_BYTES = 64 << 20

Rewrite = Callable[[torch.Tensor], torch.Tensor]
Rewrites = Mapping[str, Rewrite]
"""What becomes of tensors, in float32, by name: "model.layers.0.self_attn.v_proj.weight"."""


def plan_folds(model: StreamedModel, scales: Scales, dtype: torch.dtype | None = None) -> Rewrites:
    """The changes to the tensors of a checkpoint that scales make.

    Args:
        scales: by module, e.g. "model.layers.0.input_layernorm".
        dtype: what everything is written as (None: as stored); norms' scales are settled so that they are exact in it.
    """
    folds = folds_of(model.architecture)
    planned: dict[str, Rewrite] = {}
    for index in range(model.n_layers):
        prefix = model.prefix(index)
        own = [n.removeprefix(prefix).rpartition(".")[0] for n in model.shards.tensors if n.startswith(prefix)]
        present = folds_in_layer(folds, set(own))
        mine = {}
        for fold in present:
            vector = scales.get(prefix + fold.source)
            if vector is not None:
                name = f"{prefix}{fold.source}.weight"
                held = dtype or DTYPES[model.shards.info(name).dtype]
                mine[fold.source] = settle(vector, model.shards.read(name), fold.divide, held)
        for name, changes in edits(present, mine, Heads(*model.heads)).items():
            planned[prefix + name] = partial(edit, changes=changes)
    return planned


@contextlib.contextmanager
def publishing(source: Path, out: Path) -> Iterator[Path]:
    """A directory to write a scaled checkpoint to; it becomes `out` if all goes well, and nothing stays if not.

    Raises:
        InputError: `out` is, or lies in, the source.
        ResourceError: the disk is full.
    """
    if source.resolve() in (out.resolve(), *out.resolve().parents):
        message = f"{out} is inside the checkpoint {source}, which must stay as it is."
        raise InputError(message, hint="Choose another --out.")
    unfinished = out.with_name(f"{out.name}.partial")
    try:
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        yield unfinished
        _replace(unfinished, out)
    except OSError as error:
        message = f"The scaled checkpoint cannot be written to {out}: {error.strerror or error}."
        raise ResourceError(message, hint="Free some space and repeat the command.") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def write_checkpoint(
    source: Path, out: Path, rewrites: Rewrites, reporter: Reporter, *, dtype: torch.dtype | None = None
) -> None:
    """Write `source` with some of its tensors rewritten to the directory `out`.

    Everything but weights is copied as it is. One tensor is in memory at a time.

    Args:
        dtype: dtype of all tensors written; None: each as it was stored.

    Raises:
        CheckpointError: a scaled weight overflows its dtype.
    """
    below = [file for file in files_of(source) if file.parent != source]
    for file in sorted({*source.iterdir(), *below}):
        if file.is_file() and file.suffix not in _WEIGHTS and file.name != _INDEX:
            copy = out / file.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)
    shards = Shards(source)
    stored = sorted(shards.tensors.values(), key=lambda t: (t.file, t.start))
    with reporter.step("AWQ: writing the scaled checkpoint", len(stored)) as progress:
        done = 0
        for file, members in groupby(stored, key=lambda t: t.file):
            tensors = list(members)
            _write_shard(out / file.relative_to(source), shards, tensors, rewrites, dtype)
            done += len(tensors)
            progress.update(done, len(stored), file.name)
    if dtype is not None:
        _restate_dtype(out / "config.json", dtype)
    if (source / _INDEX).is_file():
        _write_index(source / _INDEX, out / _INDEX, stored, dtype)


def _write_shard(
    file: Path, shards: Shards, tensors: Sequence[StoredTensor], rewrites: Rewrites, dtype: torch.dtype | None
) -> None:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    at = 0
    for tensor in tensors:
        size = tensor.n_elements * _held(tensor, dtype).itemsize
        name = next(n for n, d in DTYPES.items() if d is _held(tensor, dtype))
        header[tensor.name] = {"dtype": name, "shape": list(tensor.shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        for tensor in tensors:
            _write_tensor(out, shards, tensor, rewrites.get(module_name(tensor.name)), _held(tensor, dtype))
        out.flush()
        os.fsync(out.fileno())


def _held(tensor: StoredTensor, dtype: torch.dtype | None) -> torch.dtype:
    return dtype or DTYPES[tensor.dtype]


def _write_tensor(
    out: BinaryIO, shards: Shards, tensor: StoredTensor, rewrite: Rewrite | None, dtype: torch.dtype
) -> None:
    if rewrite is None and DTYPES[tensor.dtype] is dtype:
        with tensor.file.open("rb") as stored:
            stored.seek(tensor.start)
            for start in range(tensor.start, tensor.end, _COPY_BYTES):
                out.write(stored.read(min(_COPY_BYTES, tensor.end - start)))
        return
    weight = shards.read(module_name(tensor.name))
    weight = (rewrite(weight) if rewrite else weight).to(dtype).contiguous()
    if not bool(torch.isfinite(weight).all()):
        message = f"{tensor.name} overflows {dtype} when it is scaled."
        raise CheckpointError(message, hint="Use --awq-dtype float32.")
    out.write(weight.view(-1).view(torch.uint8).numpy().data)


def _restate_dtype(config: Path, dtype: torch.dtype) -> None:
    settings = read_json(config, dict[str, Any], CheckpointError)
    key = "dtype" if "dtype" in settings else "torch_dtype"
    settings[key] = str(dtype).removeprefix("torch.")
    write_atomically(config, json.dumps(settings, indent=2) + "\n")


def _write_index(source: Path, out: Path, stored: Sequence[StoredTensor], dtype: torch.dtype | None) -> None:
    index = read_json(source, dict[str, dict[str, Any]], CheckpointError, limit=_INDEX_BYTES)
    total = sum(t.n_elements * _held(t, dtype).itemsize for t in stored)
    index["metadata"] = {**index.get("metadata", {}), "total_size": total}
    write_atomically(out, json.dumps(index, indent=2) + "\n")


def _replace(finished: Path, out: Path) -> None:
    """Give a finished directory its name; the one that it replaces goes only then."""
    old = out.with_name(f"{out.name}.old.partial")
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        out.rename(old)
    finished.rename(out)
    shutil.rmtree(old, ignore_errors=True)
