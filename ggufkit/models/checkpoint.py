"""A Hugging Face checkpoint on disk: which files a conversion reads, and whether the weights are whole.

Everything here works on headers and memory maps; torch is not needed. Format of the weights:
https://huggingface.co/docs/safetensors
"""

from __future__ import annotations

import json
import math
import re
import struct
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ggufkit.core.errors import CheckpointError
from ggufkit.core.hashing import Key, key, sha256_files
from ggufkit.core.progress import Progress, Reporter, end_if
from ggufkit.core.records import Checkpoint
from ggufkit.hub.listing import CHECKPOINT_FILES

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_PART = re.compile(r"(?P<stem>.+)-\d+-of-(?P<n>\d+)\.safetensors")
_HEADER_LIMIT = 100_000_000
_BLOCK = 1 << 24
_DTYPE_BYTES = {
    "F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2,
    "F8_E4M3": 1, "F8_E5M2": 1, "I8": 1, "U8": 1, "BOOL": 1,
}  # fmt: skip


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of a safetensors file: where its bytes lie, counted from the start of the file."""

    name: str
    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def n_elements(self) -> int:
        """Product of the shape."""
        return math.prod(self.shape)


def files_of(path: Path) -> list[Path]:
    """The files of a checkpoint that a conversion may read, sorted by name."""
    return sorted({f for pattern in CHECKPOINT_FILES for f in path.glob(pattern) if f.is_file()})


def fingerprint(path: Path, reporter: Reporter | None = None, stop: threading.Event | None = None) -> str:
    """SHA-256 over all files that a conversion may read; `stop` ends it when set, by Interrupted."""
    return sha256_files(path, files_of(path), reporter, stop)


def state(path: Path) -> list[Key]:
    """The keys of these files: equal as long as nobody changes them."""
    return [key(file) for file in files_of(path)]


def read_config(path: Path) -> dict[str, Any]:
    """The checkpoint's config.json.

    Raises:
        CheckpointError: it is missing or not a JSON object.
    """
    file = path / "config.json"
    if not file.is_file():
        hint = "Give the directory of a Hugging Face checkpoint: config.json, tokenizer and *.safetensors."
        raise CheckpointError(f"{path} has no config.json.", hint=hint)
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{file} is not valid JSON: {error}.", hint="Download it again.") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{file} holds no JSON object.", hint="Download it again.")
    return config


def open_checkpoint(
    path: Path, name: str | None = None, source: str | None = None, revision: str | None = None
) -> Checkpoint:
    """Check that a checkpoint directory is whole and describe it.

    Raises:
        CheckpointError: config.json or a shard is missing, truncated, or holds no weights.
    """
    config = read_config(path)
    architectures = config.get("architectures") or []
    if not architectures:
        raise CheckpointError(f"{path / 'config.json'} names no architecture.", hint='It needs "architectures".')
    tensors = list(stored_tensors(path))
    return Checkpoint(
        path=path,
        name=name or path.resolve().name,
        source=source or str(path),
        revision=revision,
        architecture=str(architectures[0]),
        n_params=sum(t.n_elements for t in tensors),
        tensor_bytes=sum(t.end - t.start for t in tensors),
    )


def stored_tensors(path: Path) -> Iterator[StoredTensor]:
    """All tensors of a checkpoint, shard by shard; every shard is checked to be whole.

    Raises:
        CheckpointError: a shard is missing or truncated, or a tensor of the index is in no shard.
    """
    shards, index = _shards(path)
    found = set()
    for shard in shards:
        for tensor in _read_shard(shard):
            found.add(tensor.name)
            yield tensor
    lost = sorted(set(index) - found)
    if lost:
        message = f"{path}: the index names {len(lost)} tensors that no shard holds, {lost[0]} first."
        raise CheckpointError(message, hint="Download the checkpoint again.")


def _shards(path: Path) -> tuple[list[Path], Mapping[str, str]]:
    index_file = path / "model.safetensors.index.json"
    if index_file.is_file():
        try:
            index: dict[str, str] = json.loads(index_file.read_text(encoding="utf-8"))["weight_map"]
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{index_file} is damaged: {error}.", hint="Download it again.") from error
        shards = [path / name for name in sorted(set(index.values()))]
        missing = [shard.name for shard in shards if not shard.is_file()]
        if missing:
            message = f"{path} lacks {', '.join(missing)} of {len(shards)} shards."
            raise CheckpointError(message, hint="Download the missing files.")
        return shards, index
    shards = sorted(path.glob("*.safetensors"))
    if not shards:
        raise CheckpointError(f"{path} has no *.safetensors.", hint=_no_weights_hint(path))
    missing = _missing_of_several(shards)
    if missing:
        hint = "Download the missing files, and the index model.safetensors.index.json."
        raise CheckpointError(f"{path} lacks {', '.join(missing)}.", hint=hint)
    return shards, {}


def _missing_of_several(shards: Sequence[Path]) -> list[str]:
    """Shards without an index tell by their names how many there should be."""
    there, wanted = {shard.name for shard in shards}, set[str]()
    for name in there:
        part = _PART.fullmatch(name)
        if part is not None:
            numbers = range(1, int(part["n"]) + 1)
            wanted |= {f"{part['stem']}-{i:0{len(part['n'])}d}-of-{part['n']}.safetensors" for i in numbers}
    return sorted(wanted - there)


def _no_weights_hint(path: Path) -> str:
    if any(path.glob("*.bin")) or any(path.glob("*.pth")):
        return "It has pickled weights only (*.bin): save it again with safe_serialization, or use --allow-pickle."
    return "Download the weights."


def _read_shard(shard: Path) -> Iterator[StoredTensor]:
    size = shard.stat().st_size
    with shard.open("rb") as file:
        head = file.read(8)
        (length,) = struct.unpack("<Q", head) if len(head) == 8 else (size,)
        if length > min(_HEADER_LIMIT, size - 8):
            raise _truncated(shard, size)
        try:
            header = json.loads(file.read(length))
            tensors = [_stored(shard, n, d, 8 + length) for n, d in header.items() if n != "__metadata__"]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            message = f"{shard} is damaged: its header cannot be read ({error})."
            raise CheckpointError(message, hint="Download it again.") from error
    if max((t.end for t in tensors), default=0) > size:
        raise _truncated(shard, size, max(t.end for t in tensors))
    yield from tensors


def _stored(shard: Path, name: str, entry: Mapping[str, Any], base: int) -> StoredTensor:
    start, end = entry["data_offsets"]
    tensor = StoredTensor(name, shard, entry["dtype"], tuple(entry["shape"]), base + start, base + end)
    width = _DTYPE_BYTES.get(tensor.dtype)
    if width is not None and tensor.n_elements * width != end - start:
        raise ValueError(f"the size of {name} does not fit its shape")
    return tensor


def _truncated(shard: Path, size: int, needed: int | None = None) -> CheckpointError:
    wanted = f", its tensors need {needed:,}" if needed else ", too few for its header"
    message = f"{shard} is truncated: it has {size:,} bytes{wanted}."
    return CheckpointError(message, hint="Download that file again.")


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
            progress.update(done / 1e9, total / 1e9, "GB")
    return widest


def _blocks(tensor: StoredTensor) -> Iterator[NDArray[np.generic]]:
    """A float tensor's bits, a few megabytes at a time; nothing for other dtypes."""
    import numpy as np

    kinds = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": np.uint16}
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
    return float(np.abs(block).max())
