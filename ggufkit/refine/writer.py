"""Write a GGUF again with other bytes in some tensors and more keys in its metadata; all else stays as it is."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import IO

from ggufkit.core.errors import GgufError, ResourceError
from ggufkit.core.records import Tensor
from ggufkit.llama.gguf import GgufHeader
from ggufkit.llama.gguf_bytes import FIXED, INFO_REST, MetadataValue, info, pairs


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
    magic, version, n_tensors, n_pairs = FIXED.unpack_from(old)
    # What follows the pairs is copied as it is: offsets of tensors count from the start of the data.
    at = old.rfind(info(header.tensors[0]))
    end = at + sum(len(info(t)) + INFO_REST for t in header.tensors)
    start = FIXED.pack(magic, version, n_tensors, n_pairs + len(keys))
    added = pairs(keys)
    new = start + old[FIXED.size : at] + added + old[at:end]
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
