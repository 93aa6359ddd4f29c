"""TABLE of the types that a recipe may choose from, by what the file will run on."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from ggufkit.core.records import Tensor
from ggufkit.llama.gguf import ggml_type_by_name
from ggufkit.llama.quants import needs_data

FAST_ON_CPU = ("Q2_K", "Q3_K", "IQ4_XS", "IQ4_NL", "Q4_0", "Q4_1", "Q4_K", "Q5_0", "Q5_1", "Q5_K", "Q6_K", "Q8_0")
"""Types with quick kernels on a CPU; its codebook types below four bits take two to four times as long."""
FAST_ON_GPU = ("IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", *FAST_ON_CPU)

REFINABLE = (*FAST_ON_GPU, "MXFP4", "NVFP4")
"""Types that a refinement reads and writes."""

_PROBES = ((4.6, "Q4_K"), (0.0, "Q3_K"))
_OTHER_PROBES = ("IQ4_NL", "Q4_0", "Q8_0")
"""In what tensors are measured for files of more bits per weight than that, and where its blocks do not fit. In Q2_K a
model falls apart, and the differences say less; to measure each group in several types chose no better."""


def by_backend(backend: str) -> tuple[str, ...]:
    """The default set for a backend."""
    return FAST_ON_CPU if backend == "cpu" else FAST_ON_GPU


def fits(tensor: Tensor, type_name: str) -> bool:
    """Whether a tensor's rows are a whole number of the type's blocks."""
    block, _ = ggml_type_by_name(type_name)
    return tensor.shape[0] % block == 0 and prod(tensor.shape) > 0


def possible(tensor: Tensor, types: Sequence[str], *, weighed: bool) -> tuple[str, ...]:
    """Those of the types that a tensor can have.

    Args:
        weighed: whether an importance matrix has data for it, without which some types are useless.
    """
    return tuple(t for t in types if fits(tensor, t) and (weighed or not needs_data("", t, "")))


def coarse(tensor: Tensor, bpw: float) -> str:
    """The type that a tensor is measured in: coarse enough to be seen, and a step coarser than what it will have.

    Where a model has outliers, what is lost does not fall with the square of the error: a measurement far from what the
    types will be misleads.

    Args:
        bpw: bits per weight of the file that types are chosen for.
    """
    first = next(kind for least, kind in _PROBES if bpw > least or not least)
    return next((t for t in (first, *_OTHER_PROBES) if fits(tensor, t)), "Q8_0")
