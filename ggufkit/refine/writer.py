"""Write a GGUF again with other bytes in some tensors and more keys in its metadata; all else stays as it is."""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import IO

from ggufkit.core.errors import GgufError, ResourceError
from ggufkit.core.records import Tensor
from ggufkit.llama.gguf import GgufHeader

_FIXED = struct.Struct("<4sIQQ")  # magic, version, tensors, key-value pairs
_INFO_REST = 4 + 8  # a tensor's type and offset
_UINT32, _FLOAT32, _STRING = 4, 6, 8

MetadataValue = str | int | float
"""What a key that is added may be set to: stored as a string, a uint32 or a float32."""


def rewrite(
    header: GgufHeader, out: Path, keys: Mapping[str, MetadataValue], data: Callable[[Tensor], bytes | None]
) -> None:
    """Copy a GGUF to `out`.

    Args:
        keys: added to the metadata; none of them may be there yet.
        data: gives a tensor's new bytes, or None where they stay.

    Raises:
        GgufError: a key is there already, or the header is not as the format wants it.
        ResourceError: `out` cannot be written. It is not there then.
    """
    partial = out.with_name(out.name + ".partial")
    try:
        with header.path.open("rb") as source, partial.open("wb") as target:
            target.write(_new_header(header, source.read(header.data_offset), keys))
            _copy_data(header, source, target, data)
            target.flush()
            os.fsync(target.fileno())
        os.replace(partial, out)  # noqa: PTH105 - atomic on every platform
    except OSError as error:
        message = f"{out} could not be written: {error.strerror}."
        hint = f"Free {header.size_bytes >> 20:,} MiB and repeat the command."
        raise ResourceError(message, hint=hint) from error
    finally:
        partial.unlink(missing_ok=True)


def require_new(header: GgufHeader, keys: Iterable[str]) -> None:
    """Refuse a file that has one of the keys. Raises GgufError."""
    taken = sorted(set(keys) & set(header.metadata))
    if taken:
        message = f"{header.path} has been refined already ({taken[0]} is set)."
        raise GgufError(message, hint="Refine the file that llama-quantize wrote.")


def _new_header(header: GgufHeader, old: bytes, keys: Mapping[str, MetadataValue]) -> bytes:
    require_new(header, keys)
    magic, version, n_tensors, n_pairs = _FIXED.unpack_from(old)
    # What follows the pairs is copied as it is: offsets of tensors count from the start of the data.
    at = old.rfind(_info(header.tensors[0]))
    end = at + sum(len(_info(t)) + _INFO_REST for t in header.tensors)
    start = _FIXED.pack(magic, version, n_tensors, n_pairs + len(keys))
    added = b"".join(_string(key) + _value(value) for key, value in keys.items())
    new = start + old[_FIXED.size : at] + added + old[at:end]
    return new + bytes(-len(new) % header.alignment)


def _copy_data(
    header: GgufHeader, source: IO[bytes], target: IO[bytes], data: Callable[[Tensor], bytes | None]
) -> None:
    at = header.data_offset
    for tensor in sorted(header.tensors, key=lambda t: t.offset):
        source.seek(at)
        _copy(source, target, tensor.offset - at)
        new = data(tensor)
        if new is None:
            _copy(source, target, tensor.n_bytes)
        else:
            target.write(new)
        at = tensor.offset + tensor.n_bytes
        source.seek(at)
    shutil.copyfileobj(source, target)


def _copy(source: IO[bytes], target: IO[bytes], n_bytes: int) -> None:
    while n_bytes > 0:
        chunk = source.read(min(n_bytes, 1 << 24))
        if not chunk:
            raise GgufError("The quantized file became shorter while it was read.", hint="Quantize it again.")
        target.write(chunk)
        n_bytes -= len(chunk)


def _string(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _value(value: MetadataValue) -> bytes:
    if isinstance(value, str):
        return struct.pack("<I", _STRING) + _string(value)
    if isinstance(value, int):
        return struct.pack("<II", _UINT32, value)
    return struct.pack("<If", _FLOAT32, value)


def _info(tensor: Tensor) -> bytes:
    """How the entry of a tensor in the header starts: without its type and offset."""
    n_dims = len(tensor.shape)
    return _string(tensor.name) + struct.pack(f"<I{n_dims}Q", n_dims, *tensor.shape)
