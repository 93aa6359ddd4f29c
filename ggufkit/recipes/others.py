"""What others have instead of recipes: a GGUF whose types are copied, and llama.cpp's own list of patterns and types."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from ggufkit.core.errors import InputError, UnknownType
from ggufkit.core.records import Tensor
from ggufkit.llama import part_set, patterns, quants
from ggufkit.llama.gguf import GgufHeader, ggml_type_by_name, headers_of, named_type
from ggufkit.recipes.type_recipe import Choice, TypeRecipe

_PAIR = re.compile(rb"[^\s=]+=[A-Za-z0-9_]+")
_ANOTHER = "Copy the types of a GGUF of the same model, converted with the same tensors."


def from_gguf(path: Path, base: GgufHeader) -> TypeRecipe:
    """The types that a GGUF's tensors have; of a split one that of all parts, of which any may be given.

    A tensor that is float in both is left out if llama-quantize would not quantize it anyway.

    Raises:
        GgufError: the file cannot be read, or a part is missing.
        InputError: it holds other tensors than the base, or a type that llama-quantize does not make.
    """
    headers = headers_of(path, check_size=False)  # a download may be cut after them
    if len(headers) > 1:
        part_set.require_set(headers)
    theirs = {tensor.name: tensor for header in headers for tensor in header.tensors}
    for one, other, has, lacks in (
        (theirs, base.by_name, path, base.path),
        (base.by_name, theirs, base.path, path),
    ):
        if missing := [name for name in one if name not in other]:
            more = f" and {len(missing) - 1} more tensors" if len(missing) > 1 else ""
            raise InputError(f"{has} has {missing[0]}{more}, which {lacks} lacks.", hint=_ANOTHER)
    choices = tuple(
        Choice(name, _known(theirs[name], path), theirs[name].n_bytes, why=f"as in {path.name}")
        for name in _copied(base.tensors, theirs, path)
    )
    own = named_type(headers[0]) or ""
    return TypeRecipe(choices, "" if own == "GUESSED" or quants.is_float(own) else own, f"recipe:{path.name}")


def _copied(tensors: Sequence[Tensor], theirs: dict[str, Tensor], path: Path) -> Iterator[str]:
    for tensor in tensors:
        other = theirs[tensor.name]
        if tensor.shape != other.shape:
            shapes = (
                f"{' × '.join(map(str, other.shape))} in {path}, {' × '.join(map(str, tensor.shape))} in the base"
            )
            raise InputError(f"{tensor.name} is {shapes}.", hint=_ANOTHER)
        same = other.type == tensor.type or {other.type, tensor.type} <= set(quants.FLOAT_TYPES)
        kept = tensor.type not in quants.TENSOR_TYPES if may_be_quantized(tensor) else True  # tables of integers
        if not (same and kept):
            yield tensor.name


def _known(tensor: Tensor, path: Path) -> str:
    try:
        return quants.tensor_type(tensor.type)
    except UnknownType as error:
        message = f"{path} has {tensor.name} as {tensor.type}, which llama-quantize does not make."
        raise InputError(message, hint="Copy the types of another file.") from error


def may_be_quantized(tensor: Tensor) -> bool:
    """Whether llama-quantize might quantize a tensor; that of some others it keeps its hands off, only its plan says.

    Source: the first lines of `tensor_allows_quantization` in `src/llama-quant.cpp`.
    """
    return len(tensor.shape) > 1 and tensor.name.endswith("weight") and "_norm.weight" not in tensor.name


def looks_like_patterns(data: bytes) -> bool:
    """Whether a file is llama.cpp's list: words of `pattern=type` between white space."""
    first = data.split(maxsplit=1)[:1]
    return bool(first) and _PAIR.fullmatch(first[0]) is not None


def from_patterns(path: Path, text: str, base: GgufHeader) -> TypeRecipe:
    """What llama.cpp's list means for a base: of each tensor the type of the first pattern found in its name.

    Raises:
        InputError: a word of it is no `pattern=type`, or its pattern is found in no name.
    """
    pairs = patterns.pairs(text, str(path))
    for pattern, _ in pairs:
        if not any(patterns.is_found(pattern, tensor.name) for tensor in base.tensors):
            raise InputError(
                f"{path}: {pattern!r} is found in no name of a tensor of {base.path}.", hint=patterns.HINT
            )
    choices = []
    for tensor in filter(may_be_quantized, base.tensors):
        found = next((pair for pair in pairs if patterns.is_found(pair[0], tensor.name)), None)
        if found is not None:
            block, block_bytes = ggml_type_by_name(found[1])
            n_bytes = tensor.n_elements // block * block_bytes
            choices.append(Choice(tensor.name, found[1], n_bytes, why=f"{'='.join(found)} in {path.name}"))
    if not choices:
        raise InputError(f"{path} has a type for no tensor that can be quantized.", hint=patterns.HINT)
    return TypeRecipe(tuple(choices), target=f"recipe:{path.name}")
