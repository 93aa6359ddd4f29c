"""TABLE of quantization types: only what cannot be asked of llama-quantize.

The names, their numbers and their descriptions are the tool's own (`llama.logs.parse_types`).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence

from ggufkit.core.errors import UnknownType
from ggufkit.core.records import QuantType
from ggufkit.core.variants import Variant

FLOAT_TYPES = ("F32", "F16", "BF16")
"""Conversions rather than quantizations: an importance matrix changes nothing in them."""

NEEDS_IMATRIX = frozenset({"IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M", "Q2_K_S", "IQ3_XXS", "IQ3_XS"})
"""Types that llama-quantize refuses, or warns of, without an importance matrix."""

WITHOUT_MATRIX = frozenset({"Q8_0", "MXFP4_MOE"})
"""Types of files all of whose tensors are rounded the same with an importance matrix and without.
Source: `quantize_q8_0` and `quantize_mxfp4` in `ggml/src/ggml-quants.c`; `src/llama-quant.cpp` mixes no others in."""

TENSOR_TYPES = (
    "Q1_0", "Q2_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "MXFP4", "NVFP4", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K",
    "TQ1_0", "TQ2_0", "IQ2_XXS", "IQ2_XS", "IQ3_XXS", "IQ3_S", "IQ2_S", "IQ1_S", "IQ1_M", "IQ4_NL", "IQ4_XS",
    "F16", "BF16", "F32",
)  # fmt: skip
"""What one tensor may be made: llama-quantize takes other names, too, and ends in a crash or in nothing.
Source: `ggml_quantize_chunk` in `ggml/src/ggml.c`."""

_FILE_TYPES = {
    "Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M", "IQ2_S": "IQ2_M", "MXFP4": "MXFP4_MOE",
}  # fmt: skip
"""Types of llama-quantize by the type that most of their tensors get, where that has another name.
Source: `llama_ftype_get_default_type` in `src/llama-quant.cpp`."""

_NEED_DATA = frozenset({"IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS"})
_CANNOT_WITHOUT = frozenset({"IQ1_S", "IQ2_XXS", "IQ2_XS"})
_NEED_NONE = frozenset({"token_embd.weight", "per_layer_token_embd.weight", "output.weight"})
_PSEUDO = frozenset({"COPY"})
_REFERENCE_PARAMS = {"Llama-3-8B": 8.03e9, "Mistral-7B": 7.24e9, "7B": 6.74e9}
_GIB = 1 << 30


def usable(types: Iterable[QuantType]) -> tuple[QuantType, ...]:
    """The types that name a result: without COPY."""
    return tuple(t for t in types if t.name not in _PSEUDO)


def resolve(names: Sequence[str], known: Sequence[QuantType]) -> tuple[QuantType, ...]:
    """The toolchain's types for the names a user typed: any case, aliases resolved, duplicates dropped.

    Raises:
        UnknownType: a name that the toolchain does not know, with the nearest that it does.
    """
    return tuple(dict.fromkeys(_resolve_one(name, known) for name in names))


def _resolve_one(name: str, known: Sequence[QuantType]) -> QuantType:
    by_name = {t.name: t for t in usable(known)}
    wanted = name.strip().upper().replace("-", "_")
    if wanted in by_name:
        return _target(by_name[wanted], by_name)
    near = difflib.get_close_matches(wanted, by_name, n=3, cutoff=0.5)
    hint = f"Did you mean {', '.join(near)}?" if near else f"Known: {', '.join(by_name)}."
    raise UnknownType(f"This llama-quantize knows no type {name.strip()!r}.", hint=hint)


def _target(found: QuantType, by_name: dict[str, QuantType]) -> QuantType:
    alias = re.match(r"alias for (\w+)", found.description)
    return by_name.get(alias[1], found) if alias else found


def nominal_bpw(kind: QuantType) -> float | None:
    """Bits per weight that a type's name promises: what its own description says, on the model it names.

    "2.06 bpw quantization" says it; "4.58G, +0.1754 ppl @ Llama-3-8B" gives the size in GiB of a known model; of targets,
    "4.50bpw" says it, and "like-Q4_K_M" as that type.
    """
    if kind.target is not None and kind.target.kind == "bpw":
        return kind.target.number
    said = re.search(r"([\d.]+)\s+bpw", kind.description)
    if said:
        return float(said[1])
    size = re.search(r"([\d.]+)G\b.*@ (\S+)", kind.description)
    if size and size[2] in _REFERENCE_PARAMS:
        return float(size[1]) * _GIB * 8 / _REFERENCE_PARAMS[size[2]]
    return None


def needs_data(tensor: str, after: str, kind: str) -> bool:
    """Whether a tensor that becomes `after` in a file of type `kind` must be in the importance matrix.

    Source: `tensor_requires_imatrix` in `src/llama-quant.cpp`.
    """
    return tensor not in _NEED_NONE and (after in _NEED_DATA or (after, kind) == ("Q2_K", "Q2_K_S"))


def cannot_without(after: str) -> bool:
    """Whether llama-quantize would crash of a tensor of this type that is not in the importance matrix.

    Source: `ggml_quantize_requires_imatrix` in `ggml/src/ggml.c`.
    """
    return after in _CANNOT_WITHOUT


def tensor_type(name: str) -> str:
    """The type of a tensor that a user named, in any case: "Q4_K".

    Raises:
        UnknownType: there is none, with the nearest that there is.
    """
    wanted = name.strip().upper().replace("-", "_")
    if wanted in TENSOR_TYPES:
        return wanted
    mix = (
        f" {wanted} is a type of files."
        if wanted in _FILE_TYPES.values() or re.fullmatch(r"Q\d_K_[SML]", wanted)
        else ""
    )
    near = difflib.get_close_matches(wanted, TENSOR_TYPES, n=3, cutoff=0.5)
    hint = f"Did you mean {', '.join(near)}?" if near else f"Known: {', '.join(TENSOR_TYPES)}."
    raise UnknownType(f"There is no type {name.strip()!r} of tensors.{mix}", hint=hint)


def file_type(n_bytes: Mapping[str, int], known: Sequence[QuantType]) -> str | None:
    """The type of llama-quantize for a file whose tensors are of several types: the one that most bytes are in.

    Args:
        n_bytes: bytes by type of tensor.
        known: the toolchain's types.

    Returns:
        None where no tensor is quantized: the tool heeds what it is told of tensors in files of a quantized type only.
    """
    names = {t.name for t in usable(known)}
    ranked = sorted((t for t in n_bytes if not is_float(t)), key=lambda t: -n_bytes[t])
    return next((name for t in ranked if (name := _FILE_TYPES.get(t, t)) in names), None)


def main_tensor_type(name: str) -> str:
    """The type that most tensors of a file get, by the name of its type; Q4_K where the name tells none."""
    found = next((t for t, of_files in _FILE_TYPES.items() if of_files == name), None)
    if found is not None or name in TENSOR_TYPES:
        return found or name
    mixes = {t: t for t in TENSOR_TYPES} | {"IQ3_XS": "IQ3_S", "IQ3_M": "IQ3_S"}
    return mixes.get(name) or next((t for t in TENSOR_TYPES if name.startswith(t)), "Q4_K")


def needs_imatrix(kind: QuantType) -> bool:
    """Whether a file of a type is useless without an importance matrix, or llama-quantize refuses to make it."""
    if kind.target is None or kind.target.is_measured:
        return kind.name in NEEDS_IMATRIX
    return kind.target.preset in NEEDS_IMATRIX


def is_float(name: str) -> bool:
    """Whether a type is a floating-point conversion."""
    return name in FLOAT_TYPES


def is_made(name: str, variant: Variant, base: str, beside: Collection[str] = ()) -> bool:
    """Whether a build makes a type of a variant, when it is asked for both.

    Args:
        base: the type of its base.
        beside: names of all variants that are asked for: of files of one content the plain one is made.
    """
    if is_float(name) and not variant.has_float_types:
        return False
    if name in WITHOUT_MATRIX and variant.only_weighs and "plain" in beside:
        return False
    return not (variant.name == "plain" and name == base)


def smaller_types(known: Sequence[QuantType], promised: float) -> list[QuantType]:
    """General-purpose types that promise at most `promised` bits per weight, the closest first."""
    general = [t for t in usable(known) if re.match(r"Q[3-8]_|IQ[34]_", t.name) and t.name not in NEEDS_IMATRIX]
    promises = {t: bpw for t in general if (bpw := nominal_bpw(t)) is not None and bpw < promised + 0.01}
    return sorted(promises, key=lambda t: -promises[t])
