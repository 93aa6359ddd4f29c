"""TABLE of ggml's types of tensors, by `gguf`'s own: elements and bytes of a block."""

from __future__ import annotations

from functools import lru_cache

from ggufkit.core.errors import GgufError

_NEWER = {42: ("Q2_0", 64, 18)}
"""Types of the pinned llama.cpp that a release of the `gguf` package may lack: number -> name, elements and bytes of
a block. Source: `ggml/include/ggml.h`, `gguf-py/gguf/constants.py`."""


@lru_cache(maxsize=64)
def ggml_type(kind: int) -> tuple[str, int, int]:
    """Name, elements per block and bytes per block of a ggml type; (name, 0, 0) for a type unknown to `gguf`."""
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    try:
        known = GGMLQuantizationType(kind)
    except ValueError:
        return _NEWER.get(kind, (f"type{kind}", 0, 0))
    block, block_bytes = GGML_QUANT_SIZES[known]
    return str(known.name), int(block), int(block_bytes)


def ggml_type_by_name(name: str) -> tuple[int, int]:
    """Elements per block and bytes per block of a ggml type. Raises GgufError if `gguf` does not know it."""
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    try:
        block, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType[name]]
    except KeyError:
        newer = {known: (elements, n_bytes) for known, elements, n_bytes in _NEWER.values()}
        if name in newer:
            return newer[name]
        raise GgufError(f"The size of ggml type {name} is not known.", hint="Update the gguf package.") from None
    return int(block), int(block_bytes)
