"""A quantized checkpoint written again with floats, shard by shard; one matrix is in memory at a time.

A process of its own, for torch: `python -m ggufkit.models.dequantizing SOURCE TARGET`. The last line of stderr says
what is wrong with the checkpoint.
"""

from __future__ import annotations

import json
import shutil
import struct
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from ggufkit.core.errors import CheckpointError
from ggufkit.models.checkpoint import read_config, stored_tensors
from ggufkit.models.files import INDEX, files_of
from ggufkit.models.quantized.matrices import Matrix, split
from ggufkit.models.quantized.method import Quantized, find
from ggufkit.models.tensor_headers import StoredTensor

FLOAT = "F32"
"""The dtype of what was quantized: products of codes and scales fit no smaller one. Everything else stays as it is."""

REFUSED = 3
"""The exit code where the checkpoint is the reason."""
_BYTES_OF_FLOAT = 4
_COPIED = 1 << 24
_DECLARED = ("quantization_config", "quantization")
_SAYS_HOW = "hf_quant_config.json"


def headers(source: Path) -> dict[str, dict[str, Any]]:
    """The headers of the files to write, by their names: those of the source, in which its matrices are floats."""
    return {file: _header(members) for file, members in _members(source, _quantized(source))}


def n_bytes(source: Path) -> tuple[int, int]:
    """The size of the weights to write, and of the largest matrix as floats."""
    matrices, others = _weights(source, _quantized(source))
    sizes = [_size(matrix) for matrix in matrices]
    return sum(sizes) + sum(t.end - t.start for t in others), max(sizes, default=0)


def copy_rest(source: Path, target: Path) -> None:
    """All files but weights, config.json without the quantization."""
    for file in files_of(source):
        if file.suffix != ".safetensors" and file.name not in (INDEX, _SAYS_HOW, "config.json"):
            copy = target / file.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)
    config = read_config(source)
    for part in (config, config.get("text_config")):
        if isinstance(part, dict):
            for key in _DECLARED:
                part.pop(key, None)
    (target / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    if (source / INDEX).is_file():
        found = {name: file for file, header in headers(source).items() for name in header}
        (target / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": found}), encoding="utf-8")


def main(argv: Sequence[str]) -> int:
    """Write the weights; `REFUSED` where they cannot be made floats."""
    source, target = (Path(one) for one in argv)
    try:
        how = _quantized(source)
        for name, members in _members(source, how):
            with (target / name).open("wb") as out:
                _write(out, members, how)
    except CheckpointError as error:
        print(error.message, file=sys.stderr)
        return REFUSED
    return 0


def _quantized(source: Path) -> Quantized:
    how = find(read_config(source))
    if how is None:
        raise CheckpointError(f"{source} is not quantized.")
    return how


def _weights(source: Path, how: Quantized) -> tuple[list[Matrix], list[StoredTensor]]:
    matrices, others = split(how, {tensor.name: tensor for tensor in stored_tensors(source)})
    if not matrices:
        message = f"{source} is quantized already, its config.json says, and no matrix of it is {how.title}."
        raise CheckpointError(message, hint="Take quantization_config out of config.json, or download it again.")
    return matrices, others


def _members(source: Path, how: Quantized) -> Iterator[tuple[str, list[Matrix | StoredTensor]]]:
    """What each file of the result holds: a matrix is where its values were."""
    matrices, others = _weights(source, how)
    placed = [(m.parts["values"], m) for m in matrices] + [(t, t) for t in others]
    placed.sort(key=lambda pair: (pair[0].file, pair[0].start))
    for file, pairs in groupby(placed, key=lambda pair: pair[0].file):
        yield file.relative_to(source).as_posix(), [member for _, member in pairs]


def _header(members: Sequence[Matrix | StoredTensor]) -> dict[str, Any]:
    found, at = dict[str, Any](), 0
    for member in members:
        dtype = FLOAT if isinstance(member, Matrix) else member.dtype
        end = at + _size(member)
        found[member.name] = {"dtype": dtype, "shape": list(member.shape), "data_offsets": [at, end]}
        at = end
    return found


def _size(member: Matrix | StoredTensor) -> int:
    if isinstance(member, StoredTensor):
        return member.end - member.start
    size = _BYTES_OF_FLOAT
    for n in member.shape:
        size *= n
    return size


def _write(out: Any, members: Sequence[Matrix | StoredTensor], how: Quantized) -> None:
    text = json.dumps({"__metadata__": {"format": "pt"}} | _header(members), separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    out.write(struct.pack("<Q", len(text)) + text)
    for member in members:
        if isinstance(member, StoredTensor):
            _copy(out, member)
        else:
            out.write(_floats(member, how))


def _copy(out: Any, tensor: StoredTensor) -> None:
    with tensor.file.open("rb") as stored:
        stored.seek(tensor.start)
        for start in range(tensor.start, tensor.end, _COPIED):
            out.write(stored.read(min(_COPIED, tensor.end - start)))


def _floats(matrix: Matrix, how: Quantized) -> memoryview:
    from ggufkit.models.quantized.unpack import weight

    read: Mapping[str, Any] = {role: _read(matrix, tensor) for role, tensor in matrix.parts.items()}
    return weight(matrix, read, how).contiguous().numpy().data


def _read(matrix: Matrix, tensor: StoredTensor) -> Any:
    import numpy as np
    import torch

    from ggufkit.models.quantized.unpack import DTYPES, unknown_dtype

    if tensor.dtype not in DTYPES:
        raise unknown_dtype(matrix, tensor)
    held = np.fromfile(tensor.file, np.uint8, tensor.end - tensor.start, offset=tensor.start)
    return torch.from_numpy(held).view(DTYPES[tensor.dtype]).reshape(tensor.shape)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
