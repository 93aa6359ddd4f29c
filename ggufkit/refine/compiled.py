"""The kernels for the CPU: `rows.cpp`, compiled for this machine on first use."""

from __future__ import annotations

import ctypes
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch

from ggufkit.core import process
from ggufkit.core.errors import ResourceError
from ggufkit.core.locks import waiting_lock
from ggufkit.core.paths import cache_dir
from ggufkit.core.progress import Reporter
from ggufkit.llama.programs import find_program
from ggufkit.refine import rounding
from ggufkit.refine.codebooks import Codebook
from ggufkit.refine.codecs import Codec
from ggufkit.refine.curvature import curvatures, metrics_of
from ggufkit.refine.grid import Grid
from ggufkit.refine.sums import TorchSums

_SOURCE = Path(__file__).with_name("rows.cpp")
_COMPILERS = ("c++", "g++", "clang++")
_FLAGS = ("-O3", "-march=native", "-std=c++17", "-shared", "-fPIC", "-pthread")
# What the compiler says of itself and of this processor.
_WHO = ("-march=native", "-E", "-dM", "-x", "c++", "/dev/null")
_Pointer = ctypes.c_void_p


def find(reporter: Reporter) -> CompiledKernels | None:
    """The kernels, compiled now if need be; None, and a word why, where they cannot be."""
    try:
        return _find(reporter)
    except (OSError, ResourceError) as error:  # the cache cannot be written, or nothing in it run
        reporter.warn(f"Kernels for refinement cannot be kept in the cache, so it is slower: {error}")
        return None


def _find(reporter: Reporter) -> CompiledKernels | None:
    compiler = next((c for name in _COMPILERS if (c := find_program(name)) is not None), None)
    if compiler is None:
        reporter.info("Refinement is slower without a C++ compiler: install g++ or clang++.")
        return None
    who = process.run([compiler, *_WHO]).text
    identity = hashlib.sha256("\n".join([compiler, who, _SOURCE.read_text(encoding="utf-8")]).encode())
    library = cache_dir() / "tools" / identity.hexdigest()[:12] / "rows.so"
    library.parent.mkdir(parents=True, exist_ok=True)
    with waiting_lock(library.with_suffix(".lock"), "kernels for refinement", reporter):
        if not library.is_file() and not _compile(compiler, library, reporter):
            return None
    return CompiledKernels(ctypes.CDLL(str(library)))


def _compile(compiler: str, library: Path, reporter: Reporter) -> bool:
    partial, log = library.with_suffix(".partial"), cache_dir() / "logs" / "compile-rows.log"
    with reporter.step("Compiling kernels for refinement"):
        output = process.run([compiler, *_FLAGS, str(_SOURCE), "-o", str(partial)], log=log)
    if output.returncode != 0:
        reporter.warn(f"{compiler} cannot compile {_SOURCE.name}, so refinement is slower; its log: {log}")
        return False
    partial.rename(library)
    return True


class _Values(ctypes.Structure):
    """`Values` of rows.cpp."""

    _fields_ = (("of", _Pointer), ("count", ctypes.c_int64))


class _Words(ctypes.Structure):
    """`Words` of rows.cpp."""

    _fields_ = (("of", _Pointer), *((name, ctypes.c_int32) for name in ("count", "length", "unit", "even")))


class _Problem(ctypes.Structure):
    """`Problem` of rows.cpp."""

    _fields_ = (
        ("columns", ctypes.c_int64),
        ("rows", ctypes.c_int64),
        *((name, ctypes.c_int32) for name in ("sub", "block", "sign", "has_d", "has_dmin", "threads")),
        *((name, _Values) for name in ("levels", "scale", "least")),
        ("words", _Words),
        *((name, _Pointer) for name in ("level", "d", "dmin", "scales", "leasts", "target")),
    )


@lru_cache
def _table(values: tuple[float, ...]) -> ctypes.Array[ctypes.c_float]:
    return (ctypes.c_float * len(values))(*values)


def _values(field: Sequence[float] = ()) -> _Values:
    return _Values(ctypes.cast(_table(tuple(field)), _Pointer), len(field))


def _words(codec: Codec) -> _Words:
    book = codec.level
    if not isinstance(book, Codebook):
        return _Words(None, 0, 1, 1, False)
    words = ctypes.cast(_table(tuple(book.words.flatten().tolist())), _Pointer)
    return _Words(words, *book.words.shape, book.unit, book.is_even)


@dataclass(frozen=True)
class CompiledKernels(TorchSums):
    """As `Kernels`, for tensors on the CPU; as many threads as torch uses."""

    library: ctypes.CDLL

    def gptq(
        self, grid: Grid, target: torch.Tensor, factor: torch.Tensor, order: torch.Tensor | None = None
    ) -> None:
        """As `rounding.gptq`."""
        columns = torch.arange(grid.n_columns) if order is None else order.contiguous()
        self._do("gptq", grid, target, (factor, metrics_of(factor, grid.codec.unit), columns))

    def descend(
        self, grid: Grid, target: torch.Tensor, hessian: torch.Tensor, passes: int, least_gain: float = 0.005
    ) -> None:
        """As `rounding.descend`."""
        _, inverses, _ = curvatures(hessian, grid.codec.unit)
        self._do("descend", grid, target, (hessian, inverses), ctypes.c_int32(passes), ctypes.c_float(least_gain))

    def refit(self, grid: Grid, target: torch.Tensor, hessian: torch.Tensor) -> None:
        """As `scales.refit`."""
        self._do("refit", grid, target, (hessian,))

    def search(self, grid: Grid, target: torch.Tensor, hessian: torch.Tensor) -> None:
        """As `scales.search`."""
        _, inverses, factors = curvatures(hessian, grid.codec.sub)
        metrics = torch.stack([metrics_of(factor, grid.codec.unit) for factor in factors])
        self._do("search", grid, target, (hessian, inverses, factors, metrics))

    error = staticmethod(rounding.error)

    def _do(
        self,
        name: str,
        grid: Grid,
        target: torch.Tensor,
        matrices: Sequence[torch.Tensor],
        *numbers: ctypes.c_int32 | ctypes.c_float,
    ) -> None:
        codec = grid.codec
        target, *matrices = (x.contiguous() for x in (target, *matrices))
        problem = _Problem(
            *(grid.n_columns, grid.n_rows, codec.sub, codec.block, codec.sign),
            *(codec.d is not None, codec.dmin is not None, torch.get_num_threads()),
            _values(codec.grid),
            *(_values(field.sorted_values if field else ()) for field in (codec.scale, codec.least)),
            _words(codec),
            *(x.data_ptr() for x in (grid.level, grid.d, grid.dmin, grid.scale, grid.least, target)),
        )
        pointers = [_Pointer(x.data_ptr()) for x in matrices]
        getattr(self.library, f"ggufkit_{name}")(ctypes.byref(problem), *pointers, *numbers)
