"""TABLE of formats in which a checkpoint may hold its weights, and which of them a checkpoint has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ggufkit.core.errors import CheckpointError, UsageError
from ggufkit.core.records import Checkpoint
from ggufkit.core.values import CHECKPOINT as PREFIX
from ggufkit.models.checkpoint import read_config, stored_tensors
from ggufkit.models.quantized.method import settings_of

_WIDTHS = {"F32": "f32", "F16": "f16", "BF16": "bf16"}
_Numbers = tuple[object, object] | None
_INT4, _INT8, _FP8 = (4, "int"), (8, "int"), (8, "float")
_SCHEMES: dict[tuple[_Numbers, _Numbers], str] = {
    (_INT8, _INT8): "w8a8", (_INT8, None): "w8a16", (_INT4, None): "w4a16", (_FP8, _FP8): "fp8", (_FP8, None): "fp8",
}  # fmt: skip
"""Bits and kind of weights and inputs, by compressed-tensors."""
_HINT = "Measure the checkpoint that it was made from, or one by {}."


@dataclass(frozen=True)
class Format:
    """How weights are held.

    Args:
        name: "nf4"; the results' column `format` has "hf-nf4".
        title: what the type of its rows is called.
        library: the module besides transformers that it takes, "" for none.
        made_here: whether it can be made from a checkpoint that is not quantized.
    """

    name: str
    title: str
    library: str = ""
    made_here: bool = False

    @property
    def column(self) -> str:
        """What the results' column `format` has."""
        return f"hf-{self.name}"


FORMATS = {
    one.name: one
    for one in (
        Format("f32", "F32"),
        Format("f16", "F16"),
        Format("bf16", "BF16"),
        Format("nf4", "NF4", "bitsandbytes", made_here=True),
        Format("int8", "LLM.int8", "bitsandbytes", made_here=True),
        Format("awq", "AWQ"),
        Format("gptq", "GPTQ"),
        Format("w8a8", "W8A8", "compressed_tensors"),
        Format("w4a16", "W4A16", "compressed_tensors"),
        Format("w8a16", "W8A16", "compressed_tensors"),
        Format("fp8", "FP8", "compressed_tensors"),
    )
}


@dataclass(frozen=True)
class Subject:
    """A checkpoint in a format, which may have yet to be made of it."""

    checkpoint: Checkpoint
    format: Format

    @property
    def label(self) -> str:
        """What its results are called."""
        return f"{self.checkpoint.name}-{self.format.column}"


def subject(checkpoint: Checkpoint, wanted: str | None = None) -> Subject:
    """A checkpoint as it is, or in a format that is to be made of it.

    Raises:
        UsageError: no such format can be made.
        CheckpointError: it is quantized already, or by a method that is not measured.
    """
    config = read_config(checkpoint.path)
    held = _held(checkpoint.path, config)
    if wanted is None:
        return Subject(checkpoint, held)
    made = FORMATS.get(wanted)
    if made is None or not made.made_here:
        raise UsageError(f"{PREFIX}{wanted} cannot be made of a checkpoint.", hint=f"Choose from {makeable()}.")
    if settings_of(config) is not None:
        message = f"{checkpoint.path} is quantized already: it holds {held.title}."
        raise CheckpointError(message, hint="Give the checkpoint that it was made from as --model.")
    return Subject(checkpoint, made)


def makeable() -> str:
    """The formats that can be made of a checkpoint, as they are typed."""
    return ", ".join(f"{PREFIX}{one.name}" for one in FORMATS.values() if one.made_here)


def _held(path: Path, config: Mapping[str, Any]) -> Format:
    how = settings_of(config)
    if how is None:
        return FORMATS[_width(path)]
    readers = {
        "awq": _awq, "gptq": _gptq, "bitsandbytes": _bitsandbytes, "compressed-tensors": _compressed_tensors,
    }  # fmt: skip
    method = str(how.get("quant_method"))
    if method not in readers:
        raise _unknown(path, f"by the method {method!r}")
    name, why_not = readers[method](how)
    if why_not:
        raise _unknown(path, why_not)
    return FORMATS[name]


def _unknown(path: Path, how: str) -> CheckpointError:
    hint = _HINT.format("awq, gptq, bitsandbytes or compressed-tensors")
    return CheckpointError(f"{path} is quantized {how}, which is not measured.", hint=hint)


def _width(path: Path) -> str:
    """The type that most bytes of the weights have."""
    sizes: Counter[str] = Counter()
    for tensor in stored_tensors(path):
        sizes[tensor.dtype] += tensor.end - tensor.start
    [(dtype, _)] = sizes.most_common(1)
    if dtype not in _WIDTHS:
        raise _unknown(path, f"as {dtype}, though its config.json does not say how")
    return _WIDTHS[dtype]


def _awq(how: Mapping[str, Any]) -> tuple[str, str]:
    version, bits = str(how.get("version", "gemm")).lower(), how.get("bits", how.get("w_bit", 4))
    odd = f"by AWQ with {bits} bits, packed for {version!r}"
    return "awq", "" if (version, bits) == ("gemm", 4) else odd


def _gptq(how: Mapping[str, Any]) -> tuple[str, str]:
    bits, kind = how.get("bits"), how.get("checkpoint_format", "gptq")
    known = bits in (2, 4, 8) and kind in ("gptq", "gptq_v2")
    return "gptq", "" if known else f"by GPTQ with {bits} bits as {kind!r}"


def _bitsandbytes(how: Mapping[str, Any]) -> tuple[str, str]:
    if how.get("load_in_8bit") or how.get("_load_in_8bit"):
        return "int8", ""
    kind = how.get("bnb_4bit_quant_type")
    return "nf4", "" if kind == "nf4" else f"by bitsandbytes as {kind!r}"


def _compressed_tensors(how: Mapping[str, Any]) -> tuple[str, str]:
    """All groups must be of one kind that is known."""
    groups = how.get("config_groups")
    kinds = {_scheme(group) for group in groups.values()} if isinstance(groups, dict) else {""}
    name = next(iter(kinds)) if len(kinds) == 1 else ""
    return name, "" if name in FORMATS else "by compressed-tensors in a scheme of another kind"


def _scheme(group: Any) -> str:
    weights, inputs = (_numbers(group, part) for part in ("weights", "input_activations"))
    return _SCHEMES.get((weights, inputs), "")


def _numbers(group: Any, part: str) -> _Numbers:
    args = group.get(part) if isinstance(group, dict) else None
    if not isinstance(args, dict):
        return None
    bits, kind = args.get("num_bits"), args.get("type")
    return (bits if isinstance(bits, int) else None), (kind if isinstance(kind, str) else None)
