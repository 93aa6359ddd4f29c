"""The real quantizers of every type, through the toolchain's shared `libggml-base`.

Source: `ggml/include/ggml.h`: `ggml_quantize_chunk`, `ggml_get_type_traits`. ctypes releases the GIL, so that
threads over tensors or rows run at once. A failed assertion in the library ends the process: everything it
would assert is checked here before.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
from gguf.constants import GGMLQuantizationType
from numpy.typing import NDArray

from ggufkit.core.errors import InputError, ToolchainError, UnknownType

Floats = NDArray[np.float32]
Blocks = NDArray[np.uint8]

_FLOAT_P = ctypes.POINTER(ctypes.c_float)
_TO_FLOAT = ctypes.CFUNCTYPE(None, ctypes.c_void_p, _FLOAT_P, ctypes.c_int64)
_PATTERNS = {"win32": "ggml-base*.dll", "darwin": "libggml-base*.dylib"}


class _TypeTraits(ctypes.Structure):
    _fields_ = (
        ("type_name", ctypes.c_char_p),
        ("blck_size", ctypes.c_int64),
        ("blck_size_interleave", ctypes.c_int64),
        ("type_size", ctypes.c_size_t),
        ("is_quantized", ctypes.c_bool),
        ("to_float", ctypes.c_void_p),
        ("from_float_ref", ctypes.c_void_p),
    )


@dataclass(frozen=True)
class GgmlType:
    """A tensor type: `block_size` elements take `block_bytes`. Some cannot be made without importance."""

    id: int
    name: str
    block_size: int
    block_bytes: int
    needs_importance: bool

    def row_bytes(self, n: int) -> int:
        """Bytes of a row of `n` elements.

        Raises:
            InputError: the row is not a whole number of blocks.
        """
        if n % self.block_size:
            message = f"A row of {n} weights cannot be held as {self.name}: its blocks have {self.block_size}."
            raise InputError(
                message, hint="llama-quantize takes another type for such tensors; ask its --dry-run."
            )
        return n // self.block_size * self.block_bytes


class LibGgml:
    """Quantize and dequantize rows with the toolchain's own code.

    Args:
        directory: where the toolchain's binaries or libraries are.

    Raises:
        ToolchainError: no loadable libggml-base there.
    """

    def __init__(self, directory: Path) -> None:
        self.path = find_library(directory)
        self._types: dict[str, GgmlType] = {}

    @cached_property
    def _lib(self) -> ctypes.CDLL:
        return _load(self.path)

    def type(self, name: str) -> GgmlType:
        """A type by its name in any case: "Q4_K", "iq4_nl". Raises UnknownType if the library lacks it."""
        key = name.upper()
        if key not in self._types:
            self._types[key] = self._look_up(key)
        return self._types[key]

    def _look_up(self, name: str) -> GgmlType:
        number = int(GGMLQuantizationType[name]) if name in GGMLQuantizationType.__members__ else -1
        traits = self._traits(number) if number >= 0 else None
        if traits is None or (traits.type_name or b"").decode().upper() != name:
            raise UnknownType(f"{self.path.name} knows no tensor type {name}.", hint="Update the toolchain.")
        needs = bool(self._lib.ggml_quantize_requires_imatrix(number))
        return GgmlType(number, name, int(traits.blck_size), int(traits.type_size), needs)

    def _traits(self, number: int) -> _TypeTraits:
        traits: _TypeTraits = self._lib.ggml_get_type_traits(number).contents
        return traits

    def quantize(self, weights: Floats, type_name: str, importance: Floats | None = None) -> Blocks:
        """Quantize rows as llama-quantize does.

        Args:
            weights: (rows, n) float32, finite.
            importance: (n,) E[x²] of the weights' inputs, as in an importance matrix.

        Returns:
            (rows, bytes of a row) uint8.

        Raises:
            UnknownType: no such type.
            InputError: `n` is not a whole number of blocks, importance is missing, or a weight is not finite.
        """
        kind = self.type(type_name)
        source = np.ascontiguousarray(weights, dtype=np.float32)
        rows, n = source.shape
        _require_usable(kind, source, importance)
        blocks = np.empty((rows, kind.row_bytes(n)), dtype=np.uint8)
        columns = None if importance is None else np.ascontiguousarray(importance, dtype=np.float32)
        pointer = None if columns is None else columns.ctypes.data_as(_FLOAT_P)
        self._lib.ggml_quantize_chunk(
            kind.id, source.ctypes.data_as(_FLOAT_P), blocks.ctypes.data, 0, rows, n, pointer
        )
        return blocks

    def dequantize(self, blocks: Blocks, type_name: str, n: int) -> Floats:
        """Rows of blocks -> (rows, n) float32: the inverse of `quantize`, up to rounding."""
        kind = self.type(type_name)
        rows = len(blocks)
        if blocks.shape != (rows, kind.row_bytes(n)):
            raise InputError(f"{blocks.shape} is no array of {rows} rows of {n} weights in {kind.name}.")
        source = np.ascontiguousarray(blocks)
        if kind.name == "F32":
            return source.view(np.float32)
        weights = np.empty((rows, n), dtype=np.float32)
        to_float = _TO_FLOAT(self._traits(kind.id).to_float)
        to_float(source.ctypes.data, weights.ctypes.data_as(_FLOAT_P), rows * n)
        return weights

    def rounded(self, weights: Floats, type_name: str, importance: Floats | None = None) -> Floats:
        """What is left of (rows, n) weights after quantization: `dequantize(quantize(weights))`."""
        return self.dequantize(self.quantize(weights, type_name, importance), type_name, weights.shape[1])


def _require_usable(kind: GgmlType, weights: Floats, importance: Floats | None) -> None:
    if kind.needs_importance and importance is None:
        message = f"{kind.name} cannot be made without an importance matrix."
        raise InputError(message, hint="Use --variants imatrix or awq+imatrix.")
    if importance is not None and importance.shape != weights.shape[1:]:
        raise InputError(f"{importance.shape[0]} importances do not fit rows of {weights.shape[1]} weights.")
    if not np.isfinite(weights).all():
        raise InputError("The weights hold NaN or infinity.", hint="Check the checkpoint.")


def find_library(directory: Path) -> Path:
    """The `libggml-base` that belongs to a directory of binaries.

    Raises:
        ToolchainError: none is there.
    """
    pattern = _PATTERNS.get(sys.platform, "libggml-base*.so*")
    found = next((f for place in _places(directory) for f in sorted(place.glob(pattern))), None)
    if found is None:
        message = f"There is no {pattern.replace('*', '')} in {directory}."
        hint = "The toolchain is linked statically; `ggufkit toolchain install` builds one with shared libraries."
        raise ToolchainError(message, hint=hint)
    return found


def _places(directory: Path) -> Iterator[Path]:
    parent = directory.parent
    yield from (directory, directory / "bin", directory / "lib", parent / "lib", parent / "lib64")


@lru_cache
def _load(path: Path) -> ctypes.CDLL:
    try:
        lib = ctypes.CDLL(str(path))
        lib.ggml_get_type_traits.restype = ctypes.POINTER(_TypeTraits)
        lib.ggml_get_type_traits.argtypes = [ctypes.c_int]
        lib.ggml_quantize_requires_imatrix.restype = ctypes.c_bool
        lib.ggml_quantize_requires_imatrix.argtypes = [ctypes.c_int]
        lib.ggml_quantize_chunk.restype = ctypes.c_size_t
        lib.ggml_quantize_chunk.argtypes = [
            ctypes.c_int, _FLOAT_P, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, _FLOAT_P,
        ]  # fmt: skip
    except (OSError, AttributeError) as error:
        message = f"{path} cannot be used: {error}."
        raise ToolchainError(message, hint="Run `ggufkit toolchain install`.") from error
    return lib
