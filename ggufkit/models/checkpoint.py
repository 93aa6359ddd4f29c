"""A Hugging Face checkpoint on disk: which files a conversion reads, and whether the weights are whole.

Everything here works on headers and memory maps; torch is not needed. Format of the weights:
https://huggingface.co/docs/safetensors
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ggufkit.core.errors import CheckpointError
from ggufkit.core.jsonfile import is_of, read_json
from ggufkit.core.progress import Progress, end_if
from ggufkit.core.records import Checkpoint
from ggufkit.core.units import GIB
from ggufkit.models.files import INDEX, require_readable, weight_files
from ggufkit.models.hyperparameters import require_sane
from ggufkit.models.quantized.matrices import n_values, split
from ggufkit.models.quantized.method import Quantized, find
from ggufkit.models.tensor_headers import StoredTensor, read_tensors

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_BLOCK = 1 << 24
_NAN8 = {"F8_E4M3": (0x7F, 0x7F), "F8_E5M2": (0x7F, 0x7C), "F8_E8M0": (0xFF, 0xFF)}
"""Bits that count, and the least of them that is NaN or infinite, of floats of one byte."""
_ADAPTER = "adapter_config.json"


def read_config(path: Path) -> dict[str, Any]:
    """The checkpoint's config.json.

    Raises:
        CheckpointError: it is missing or not a JSON object.
    """
    file = path / "config.json"
    if not file.is_file():
        raise _no_config(path)
    config = read_json(file, object, CheckpointError)
    if not isinstance(config, dict):
        raise CheckpointError(f"{file} holds no JSON object.", hint="Download it again.")
    return config


def _no_config(path: Path) -> CheckpointError:
    if (path / _ADAPTER).is_file():
        base = "BASE"
        with contextlib.suppress(CheckpointError):
            named = read_json(path / _ADAPTER, dict[str, Any], CheckpointError).get("base_model_name_or_path")
            base = named if isinstance(named, str) and named else base
        message = f"{path} is an adapter, not a model: it has {_ADAPTER} and no config.json."
        return CheckpointError(message, hint=f"Give the model that it changes: build {base} --lora {path}")
    hint = "Give the directory of a Hugging Face checkpoint: config.json, tokenizer and *.safetensors."
    if (inside := next(path.glob("*.gguf"), None)) is not None:
        hint = f"If you mean a GGUF in it, give that: {inside}"
    return CheckpointError(f"{path} has no config.json.", hint=hint)


def open_checkpoint(
    path: Path, name: str | None = None, source: str | None = None, revision: str | None = None
) -> Checkpoint:
    """Check that a checkpoint directory is whole and describe it.

    Raises:
        CheckpointError: config.json or a shard is missing, truncated, or holds no weights; or quantized ones whose scales
            are missing or of another shape.
    """
    config = read_config(path)
    require_readable(path)
    architectures = config.get("architectures")
    if not is_of(architectures, list[str]) or not architectures:
        raise CheckpointError(f"{path / 'config.json'} names no architecture.", hint='It needs "architectures".')
    require_sane(path / "config.json", config)
    tensors, how = list(stored_tensors(path)), find(config)
    return Checkpoint(
        path=path,
        name=name or path.resolve().name,
        source=source or str(path),
        revision=revision,
        architecture=str(architectures[0]),
        n_params=_n_params(tensors, how),
        tensor_bytes=sum(t.end - t.start for t in tensors),
        quantized=how.title if how is not None else None,
    )


def _n_params(tensors: Sequence[StoredTensor], how: Quantized | None) -> int:
    """Elements of all weights; of matrices in parts those that they make."""
    if how is None or not how.is_unpacked_here:
        return sum(map(n_values, tensors))
    matrices, others = split(how, {t.name: t for t in tensors})
    return sum(math.prod(m.shape) for m in matrices) + sum(t.n_elements for t in others)


def stored_tensors(path: Path) -> Iterator[StoredTensor]:
    """All tensors of a checkpoint, shard by shard; every shard is checked to be whole.

    Raises:
        CheckpointError: a shard is missing or truncated, or a tensor of the index is in no shard.
    """
    shards, promised = weight_files(path)
    found = set()
    for shard in shards:
        for tensor in read_tensors(shard):
            found.add(tensor.name)
            yield tensor
    if promised and (extra := sorted(found - promised)):
        message = f"{path / INDEX} does not name {len(extra)} tensors that its shards hold, {extra[0]} first."
        raise CheckpointError(
            message, hint="Index and shards are not of one model: download the checkpoint again."
        )
    if lost := sorted(promised - found):
        message = f"{path / INDEX} names {len(lost)} tensors that no shard holds, {lost[0]} first."
        raise CheckpointError(message, hint="Download the checkpoint again.")


@dataclass(frozen=True)
class WeightRange:
    """The largest finite magnitude over all weights, and the tensor that holds it."""

    largest: float
    tensor: str


def scan_weights(path: Path, progress: Progress | None = None, stop: threading.Event | None = None) -> WeightRange:
    """Read every weight once; `stop` ends it when set, by Interrupted.

    Raises:
        CheckpointError: a tensor holds NaN or Inf; it is named.
    """
    widest, tensors, done = WeightRange(0.0, ""), list(stored_tensors(path)), 0
    total = sum(t.end - t.start for t in tensors)
    for tensor in tensors:
        for block in _blocks(tensor):
            end_if(stop)
            largest = _largest(block, tensor)
            if not math.isfinite(largest):
                message = f"{tensor.name} in {tensor.file.name} holds NaN or infinite weights."
                raise CheckpointError(message, hint="The checkpoint is broken: download or train it again.")
            if largest > widest.largest:
                widest = WeightRange(largest, tensor.name)
        done += tensor.end - tensor.start
        if progress is not None:
            progress.update(done / GIB, total / GIB, "GiB")
    return widest


def _blocks(tensor: StoredTensor) -> Iterator[NDArray[np.generic]]:
    """A float tensor's bits, a few megabytes at a time; nothing for other dtypes."""
    import numpy as np

    kinds = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": np.uint16} | dict.fromkeys(
        _NAN8, np.uint8
    )
    if tensor.dtype not in kinds or tensor.n_elements == 0:
        return
    with tensor.file.open("rb") as file:
        file.seek(tensor.start)
        for first in range(0, tensor.n_elements, _BLOCK):
            yield np.fromfile(file, kinds[tensor.dtype], min(_BLOCK, tensor.n_elements - first))


def _largest(block: NDArray[np.generic], tensor: StoredTensor) -> float:
    """The largest magnitude of a block; NaN or Inf if it holds one."""
    import numpy as np

    if tensor.dtype == "BF16":
        # Without its sign bit a bfloat16 orders like the integer of its bits; NaN and Inf are the largest.
        top = np.uint32((block.view(np.uint16) & np.uint16(0x7FFF)).max()) << np.uint32(16)
        return float(np.array(top, np.uint32).view(np.float32))
    if tensor.dtype in _NAN8:  # their range says nothing: there are scales
        sign, least = _NAN8[tensor.dtype]
        return math.nan if bool(((block & np.uint8(sign)) >= np.uint8(least)).any()) else 0.0
    return float(np.abs(block).max())
