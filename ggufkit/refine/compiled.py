"""The kernels for the CPU: `rows.cpp`, compiled for this machine on first use."""

from __future__ import annotations

import ctypes
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ggufkit.core import process
from ggufkit.core.errors import ResourceError
from ggufkit.core.locks import waiting_lock
from ggufkit.core.paths import cache_dir
from ggufkit.core.progress import Reporter
from ggufkit.llama.programs import find_program
from ggufkit.refine import rounding
from ggufkit.refine.codecs import Field
from ggufkit.refine.grid import Grid
from ggufkit.refine.scales import curvatures
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


class _Field(ctypes.Structure):
    _fields_ = (("there", ctypes.c_int32), ("low", ctypes.c_float), ("high", ctypes.c_float))

    @classmethod
    def of(cls, field: Field | None) -> _Field:
        return cls(1, field.sorted_values[0], field.sorted_values[-1]) if field else cls(0, 0, 0)


class _Problem(ctypes.Structure):
    """`Problem` of rows.cpp."""

    _fields_ = (
        ("columns", ctypes.c_int64),
        ("rows", ctypes.c_int64),
        *((name, ctypes.c_int32) for name in ("sub", "block", "sign", "n_levels")),
        ("levels", _Pointer),
        ("scale", _Field),
        ("least", _Field),
        *((name, ctypes.c_int32) for name in ("has_dmin", "threads")),
        *((name, _Pointer) for name in ("level", "d", "dmin", "scales", "leasts", "target")),
    )


@dataclass(frozen=True)
class CompiledKernels(TorchSums):
    """As `Kernels`, for tensors on the CPU; as many threads as torch uses."""

    library: ctypes.CDLL

    def gptq(
        self, grid: Grid, target: torch.Tensor, factor: torch.Tensor, order: torch.Tensor | None = None
    ) -> None:
        """As `rounding.gptq`."""
        columns = torch.arange(grid.n_columns) if order is None else order.contiguous()
        self._do("gptq", grid, target, (factor, columns))

    def descend(
        self, grid: Grid, target: torch.Tensor, hessian: torch.Tensor, passes: int, least_gain: float = 0.005
    ) -> None:
        """As `rounding.descend`."""
        self._do("descend", grid, target, (hessian,), ctypes.c_int32(passes), ctypes.c_float(least_gain))

    def refit(self, grid: Grid, target: torch.Tensor, hessian: torch.Tensor) -> None:
        """As `scales.refit`."""
        self._do("refit", grid, target, (hessian,))

    def search(self, grid: Grid, target: torch.Tensor, hessian: torch.Tensor) -> None:
        """As `scales.search`."""
        _, inverses, factors = curvatures(hessian, grid.codec.sub)
        self._do("search", grid, target, (hessian, inverses, factors))

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
        levels = (ctypes.c_float * len(codec.grid))(*codec.grid)
        target, *matrices = (x.contiguous() for x in (target, *matrices))
        problem = _Problem(
            *(grid.n_columns, grid.n_rows, codec.sub, codec.block, codec.sign, len(levels)),
            ctypes.cast(levels, _Pointer),
            _Field.of(codec.scale),
            _Field.of(codec.least),
            codec.dmin is not None,
            torch.get_num_threads(),
            *(x.data_ptr() for x in (grid.level, grid.d, grid.dmin, grid.scale, grid.least, target)),
        )
        pointers = [_Pointer(x.data_ptr()) for x in matrices]
        getattr(self.library, f"ggufkit_{name}")(ctypes.byref(problem), *pointers, *numbers)
