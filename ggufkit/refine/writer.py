"""Write a GGUF again with other bytes in some tensors and more keys in its metadata; all else stays as it is."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from ggufkit.core.errors import GgufError, ResourceError
from ggufkit.core.records import Tensor
from ggufkit.llama import whole
from ggufkit.llama.gguf import GgufHeader
from ggufkit.llama.gguf_bytes import MetadataValue


def rewrite(
    header: GgufHeader, out: Path, keys: Mapping[str, MetadataValue], data: Callable[[Tensor], bytes | None]
) -> None:
    """Copy a GGUF to `out`; one in parts becomes one file.

    Args:
        keys: added to the metadata; none of them may be there yet.
        data: gives a tensor's new bytes, or None where they stay.

    Raises:
        GgufError: a key is there already, or the header is not as the format wants it.
        ResourceError: `out` cannot be written. It is not there then.
    """
    partial = out.with_name(out.name + ".partial")
    try:
        require_new(header, keys)
        with partial.open("wb") as target:
            target.write(whole.head(header, keys))
            for one in whole.tensors(header):
                new = data(one.tensor)
                target.writelines(one.blocks() if new is None else [new])
                target.write(whole.padding(one.tensor, header))
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
