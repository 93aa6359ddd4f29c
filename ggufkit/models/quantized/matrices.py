"""Which stored tensors make which weight of a quantized checkpoint: by names, dtypes and shapes, without torch.

Sources: transformers' `quantizers/`; compressed-tensors' `compressors/`; bitsandbytes' `functional.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from ggufkit.core.errors import CheckpointError
from ggufkit.core.jsonfile import parse_json
from ggufkit.models.quantized.method import Quantized, Settings, Tensors, weights_of_groups
from ggufkit.models.tensor_headers import StoredTensor

Shape = tuple[int, ...]
Blocks = tuple[int, ...]
"""How many values share a scale, by dimension, the last ones of a tensor's; 0 for all of a dimension."""

_AGAIN = "Download the checkpoint again, or start from the one that it was made from."
_PER_TENSOR, _PER_ROW = (0, 0), (1, 0)
_BLOCKS, _BLOCK_SCALES = "_blocks", "_scales"
_NO_NUMBER = 0xFF
_NARROW = ("F8_E4M3", "F8_E5M2", "I8")
# Of inputs, of the cache, and of kernels: weights do without.
_NOT_OF_WEIGHTS = (
    ".input_scale", ".activation_scale", "_activation_scale", ".input_scale_ub", ".input_zero_point", ".input_g_idx",
    ".output_scale", ".output_zero_point", ".k_scale", ".v_scale", ".q_scale", ".weight_format",
)  # fmt: skip


@dataclass(frozen=True)
class Matrix:
    """A weight that is held in parts.

    Args:
        name, shape: of the weight, as the model has it.
        kind: how its parts make it: a name of `_KINDS`.
        parts: its stored tensors, by what they are.
        blocks: which values share a scale, where that is not told by the parts.
    """

    name: str
    shape: Shape
    kind: str
    parts: Mapping[str, StoredTensor]
    blocks: Blocks = _PER_TENSOR


@dataclass(frozen=True)
class State:
    """What bitsandbytes says of a matrix besides tensors."""

    shape: tuple[int, ...]
    blocksize: int
    nested_blocksize: int = 1
    nested_offset: float = 0.0


def split(how: Quantized, tensors: Tensors) -> tuple[list[Matrix], list[StoredTensor]]:
    """The quantized matrices of a checkpoint, and its other weights.

    Raises:
        CheckpointError: a matrix lacks a part, or has one of another shape than the others imply; or config.json tells no
            numbers where they belong.
    """
    try:
        matrices = [made for tensor in tensors.values() for made in _made_of(how, tensor, tensors)]
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        message = (
            f"The quantization_config of config.json is not as it should be: {type(error).__name__}, {error}."
        )
        raise CheckpointError(message, hint=_AGAIN) from error
    used = {part.name for matrix in matrices for part in matrix.parts.values()}
    others = [t for n, t in tensors.items() if n not in used and not n.endswith(_NOT_OF_WEIGHTS)]
    for tensor in others:
        if (
            stem := next((tensor.name.removesuffix(s) for s in _SCALES if tensor.name.endswith(s)), None)
        ) is not None:
            raise damaged(stem, f"it has {tensor.name} and no matrix that this is of")
    return matrices, others


def n_values(tensor: StoredTensor) -> int:
    """Values that a stored tensor holds: gpt-oss has two in a byte of its blocks, and scales apart."""
    if tensor.dtype != "U8" or not tensor.name.endswith((_BLOCKS, _BLOCK_SCALES)):
        return tensor.n_elements
    return 2 * tensor.n_elements if tensor.name.endswith(_BLOCKS) else 0


def require_blocks(tensors: Tensors) -> None:
    """Raise CheckpointError where blocks of MXFP4 lack their scales, or have others than fit."""
    for name, blocks in tensors.items():
        if name.endswith(_BLOCKS):
            stem = name.removesuffix(_BLOCKS)
            scales = tensors.get(stem + _BLOCK_SCALES)
            if scales is None:
                raise damaged(stem, f"it has no {stem}{_BLOCK_SCALES}")
            if scales.shape != blocks.shape[:-1]:
                raise damaged(stem, f"{scales.name} has the shape {scales.shape} where {blocks.shape[:-1]} fits")
            if _NO_NUMBER in _bytes(scales):
                raise damaged(stem, f"{scales.name} holds NaN")


def damaged(name: str, why: str) -> CheckpointError:
    """The error for a matrix."""
    return CheckpointError(f"{name} cannot be read: {why}.", hint=_AGAIN)


def read_state(matrix_name: str, tensor: StoredTensor) -> State:
    """What bitsandbytes says of a matrix: JSON in a tensor of bytes. Raises CheckpointError."""
    state = parse_json(_bytes(tensor), State, f"{tensor.name}", CheckpointError, hint=_AGAIN)
    if state.blocksize < 1 or state.nested_blocksize < 1 or min(state.shape, default=0) < 1:
        raise damaged(matrix_name, f"{tensor.name} tells of blocks or a shape without values")
    return state


def _bytes(tensor: StoredTensor) -> bytes:
    with tensor.file.open("rb") as file:
        file.seek(tensor.start)
        return file.read(tensor.end - tensor.start)


def scale_shape(shape: Shape, blocks: Blocks) -> Shape:
    """The shape of the scales for a tensor in such blocks."""
    whole = (1,) * (len(shape) - len(blocks)) + blocks
    return tuple(math.ceil(n / (block or max(n, 1))) for n, block in zip(shape, whole[-len(shape) :], strict=True))


def _made_of(how: Quantized, tensor: StoredTensor, tensors: Tensors) -> Iterator[Matrix]:
    for kind in _KINDS_OF[how.method]:
        row = _KINDS[kind]
        if tensor.name.endswith(row.anchor) and (row.dtypes is None or tensor.dtype in row.dtypes):
            stem = tensor.name.removesuffix(row.anchor)
            parts = {"values": tensor}
            for role, names in row.parts.items():
                found = next((tensors[stem + end] for end in names if stem + end in tensors), None)
                if found is not None:
                    parts[role] = found
                elif role in row.needed:
                    raise damaged(stem + row.weight, f"it has no {stem}{names[0]}")
            shape, blocks = row.shape(stem + row.weight, parts, how.settings)
            yield Matrix(stem + row.weight, shape, kind, parts, blocks)
            return


_Shaped = Callable[[str, Mapping[str, StoredTensor], Settings], tuple[Shape, Blocks]]


@dataclass(frozen=True)
class _Kind:
    """How a matrix is told: the end of the name of the tensor that holds its values, and of its other parts."""

    anchor: str
    weight: str
    parts: Mapping[str, Sequence[str]]
    needed: Sequence[str]
    shape: _Shaped
    dtypes: Sequence[str] | None = None


def _scaled(name: str, parts: Mapping[str, StoredTensor], how: Settings) -> tuple[Shape, Blocks]:
    """One number for each value: its shape is that of the weight, and the scales' tells which blocks they are of."""
    shape = parts["values"].shape
    return shape, _blocks(name, shape, parts["scales"], how)


def _blocks(name: str, shape: Shape, scales: StoredTensor, how: Settings) -> Blocks:
    possible = _possible_blocks(how)
    for blocks in possible:
        wanted = scale_shape(shape, blocks)
        if scales.shape in (wanted, _without_ones(wanted)) or (math.prod(wanted) == 1 and scales.n_elements == 1):
            return blocks
    fitting = " or ".join(str(scale_shape(shape, blocks)) for blocks in possible)
    raise damaged(name, f"{scales.name} has the shape {scales.shape} where {fitting} fits")


def _without_ones(shape: Shape) -> Shape:
    return tuple(n for n in shape if n != 1)


def _possible_blocks(how: Settings) -> list[Blocks]:
    """By what config.json says: blocks, groups of a row, rows, or the whole."""
    if how.get("quant_method") != "compressed-tensors":
        block = how.get("weight_block_size")
        return [tuple(block)] if isinstance(block, list) else [_PER_TENSOR, _PER_ROW]
    found = []
    for weights in weights_of_groups(how):
        strategy, group, block = (weights.get(key) for key in ("strategy", "group_size", "block_structure"))
        if isinstance(block, list) and len(block) == 2:
            found.append((int(block[0]), int(block[1])))
        elif isinstance(group, int) and group > 0:
            found.append((1, group))
        else:
            found.append(_PER_TENSOR if strategy == "tensor" else _PER_ROW)
    return list(dict.fromkeys(found))


def _words(name: str, parts: Mapping[str, StoredTensor], how: Settings) -> tuple[Shape, Blocks]:
    """AWQ packs columns, GPTQ rows of the matrix that is the weight turned."""
    if len(parts["values"].shape) != 2:
        raise damaged(name, f"{parts['values'].name} is no matrix")
    (rows, columns), per = parts["values"].shape, 32 // int(how.get("bits", how.get("w_bit", 4)))
    return ((columns * per, rows) if how.get("quant_method") == "awq" else (columns, rows * per)), _PER_TENSOR


def _packed(name: str, parts: Mapping[str, StoredTensor], how: Settings) -> tuple[Shape, Blocks]:
    """Words along the inputs; the last may be filled in part, then the number of inputs is in a tensor of its own."""
    if len(parts["values"].shape) != 2:
        raise damaged(name, f"{parts['values'].name} is no matrix")
    rows, words = parts["values"].shape
    bits = [int(w["num_bits"]) for w in weights_of_groups(how)]
    n_in = _n_in(parts["shape"]) if "shape" in parts else words * 32 // bits[0]
    if all(n_words(n_in, b) != words for b in bits):
        raise damaged(name, f"its {words} words a row are not of {n_in} inputs")
    shape = (rows, n_in)
    if "groups" in parts:
        return shape, (1, math.ceil(shape[1] / max(parts["scales"].shape[-1], 1)))
    return shape, _blocks(name, shape, parts["scales"], how)


def n_words(n_in: int, bits: int) -> int:
    """How many words of 32 bits hold a row."""
    return math.ceil(n_in * bits / 32)


def _n_in(shape: StoredTensor) -> int:
    """The second of the two numbers that `weight_shape` holds."""
    held = _bytes(shape)
    return int.from_bytes(held[len(held) // 2 :], "little")


def _nibbles(name: str, parts: Mapping[str, StoredTensor], _: Settings) -> tuple[Shape, Blocks]:
    state = read_state(name, parts["state"])
    if math.prod(state.shape) > 2 * parts["values"].n_elements:
        raise damaged(name, f"it has {parts['values'].n_elements} bytes for a shape of {state.shape}")
    n_blocks = math.ceil(math.prod(state.shape) / state.blocksize)
    if parts["scales"].n_elements != n_blocks:
        raise damaged(name, f"{parts['scales'].name} has {parts['scales'].n_elements} values where {n_blocks} fit")
    return state.shape, _PER_TENSOR


def _rows(name: str, parts: Mapping[str, StoredTensor], _: Settings) -> tuple[Shape, Blocks]:
    shape = parts["values"].shape
    if parts["scales"].shape != shape[:1]:
        raise damaged(name, f"{parts['scales'].name} has the shape {parts['scales'].shape} where {shape[:1]} fits")
    return shape, _PER_ROW


_SCALES = ("_scale_inv", ".weight_scale", ".SCB", ".absmax", ".qzeros")
_STATE = tuple(f".weight.quant_state.bitsandbytes__{kind}" for kind in ("nf4", "fp4"))
_KINDS = {
    "words": _Kind(
        ".qweight", ".weight", {"qzeros": (".qzeros",), "scales": (".scales",), "g_idx": (".g_idx",)}, ("qzeros", "scales"),
        _words,
    ),
    "packed": _Kind(
        ".weight_packed", ".weight",
        {
            "scales": (".weight_scale",), "shape": (".weight_shape",), "zeros": (".weight_zero_point",),
            "groups": (".weight_g_idx",),
        },
        ("scales",), _packed,
    ),
    "scaled": _Kind(
        "", "", {"scales": ("_scale_inv", "_scale"), "zeros": ("_zero_point",)}, ("scales",), _scaled, _NARROW,
    ),
    "rows": _Kind(".weight", ".weight", {"scales": (".SCB",)}, ("scales",), _rows, ("I8",)),
    "nibbles": _Kind(
        ".weight", ".weight",
        {
            "scales": (".weight.absmax",), "codes": (".weight.quant_map",), "state": _STATE,
            "nested scales": (".weight.nested_absmax",), "nested codes": (".weight.nested_quant_map",),
        },
        ("scales", "codes", "state"), _nibbles, ("U8",),
    ),
}  # fmt: skip
_KINDS_OF: Mapping[str, Sequence[str]] = {
    "fp8": ("scaled",), "fbgemm_fp8": ("scaled",), "gptq": ("words",), "awq": ("words",),
    "bitsandbytes": ("rows", "nibbles"), "compressed-tensors": ("packed", "scaled"),
}  # fmt: skip
