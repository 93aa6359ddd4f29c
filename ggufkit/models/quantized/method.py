"""TABLE of methods that a checkpoint may be quantized by, as its config.json tells: what it is called, and who reads it.

Source of the second: llama.cpp's `conversion/base.py` and `conversion/gpt_oss.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from ggufkit.models.tensor_headers import StoredTensor

Tensors = Mapping[str, StoredTensor]
Settings = Mapping[str, Any]

_PLAIN = (("int", 2), ("int", 4), ("int", 8), ("float", 8))


class Reader(Enum):
    """Who makes floats of the weights, as it is said; what nobody does is refused."""

    CARRIED = "llama.cpp has the same blocks: they go into the GGUF as they are."
    CONVERTER = "llama.cpp's converter makes floats of it."
    GGUFKIT = "It is made one of floats first, which the base is converted from."


@dataclass(frozen=True)
class Quantized:
    """How a checkpoint's weights are held.

    Args:
        method: "fp8", "gptq" … as config.json calls it.
        title: "FP8 in blocks of 128 × 128".
        settings: what config.json says of it.
    """

    method: str
    title: str
    settings: Settings = field(repr=False)

    def reader(self, tensors: Tensors) -> Reader | None:
        """Who reads a checkpoint of these tensors; None where nobody does."""
        row = _METHODS.get(self.method)
        return row.reader(self.settings, tensors) if row is not None else None

    @property
    def is_carried(self) -> bool:
        """Whether its blocks go into a GGUF as they are."""
        row = _METHODS.get(self.method)
        return row is not None and row.is_carried(self.settings)

    @property
    def is_unpacked_here(self) -> bool:
        """Whether its weights can be made floats here, whoever reads them for a conversion."""
        row = _METHODS.get(self.method)
        return row is not None and row.is_unpacked_here(self.settings)


def settings_of(config: Mapping[str, Any]) -> Settings | None:
    """What a config.json says of a quantization, None where it says nothing."""
    inner = config.get("text_config")
    how = config.get("quantization_config", inner.get("quantization_config") if isinstance(inner, dict) else None)
    return how if isinstance(how, dict) else None


def find(config: Mapping[str, Any]) -> Quantized | None:
    """How the checkpoint of a config.json is quantized; None where it is not."""
    how = settings_of(config)
    if how is None:
        return None
    method = str(how.get("quant_method"))
    row = _METHODS.get(method)
    return Quantized(method, row.title(how) if row is not None else method, how)


def known() -> tuple[str, ...]:
    """The methods that are read, as config.json calls them."""
    return tuple(sorted(_METHODS))


def weights_of_groups(how: Settings) -> list[Mapping[str, Any]]:
    """How compressed-tensors holds the weights of each of its groups."""
    groups = how.get("config_groups")
    held = [g.get("weights") for g in groups.values() if isinstance(g, dict)] if isinstance(groups, dict) else []
    return [weights for weights in held if isinstance(weights, dict)]


def _surely(_: Settings) -> bool:
    return True


def _never(_: Settings) -> bool:
    return False


@dataclass(frozen=True)
class _Method:
    title: Callable[[Settings], str]
    reader: Callable[[Settings, Tensors], Reader | None]
    is_unpacked_here: Callable[[Settings], bool] = _surely
    is_carried: Callable[[Settings], bool] = _never


def _always(reader: Reader) -> Callable[[Settings, Tensors], Reader | None]:
    return lambda _how, _tensors: reader


def _fp8_title(how: Settings) -> str:
    block = how.get("weight_block_size")
    return f"FP8 in blocks of {' × '.join(map(str, block))}" if isinstance(block, list) else "FP8"


def _fp8(_: Settings, tensors: Tensors) -> Reader | None:
    """The converter looks for inverse scales, and takes those of inputs for weights that it does not know."""
    odd = any(name.endswith((".weight_scale", ".input_scale")) for name in tensors)
    return Reader.GGUFKIT if odd else Reader.CONVERTER


def _mxfp4(_: Settings, tensors: Tensors) -> Reader | None:
    """gpt-oss names its blocks so; the converter knows them of no other architecture."""
    return Reader.CARRIED if any(name.endswith("_blocks") for name in tensors) else None


def _is_modelopt_fp4(how: Settings) -> bool:
    return how.get("quant_algo") != "FP8"


def _modelopt_title(how: Settings) -> str:
    return f"{'NVFP4' if _is_modelopt_fp4(how) else 'FP8'} by ModelOpt"


def _modelopt(how: Settings, _: Tensors) -> Reader | None:
    return Reader.CARRIED if _is_modelopt_fp4(how) else Reader.CONVERTER


def _gptq_title(how: Settings) -> str:
    return f"INT{how.get('bits')} by GPTQ"


def _gptq(how: Settings, tensors: Tensors) -> Reader | None:
    if how.get("bits") not in (2, 4, 8):
        return None
    matrices = [name.removesuffix(".qweight") for name in tensors if name.endswith(".qweight")]
    ordered = all(f"{name}.g_idx" in tensors for name in matrices)
    return Reader.CONVERTER if ordered else Reader.GGUFKIT


def _awq(how: Settings, _: Tensors) -> Reader | None:
    version, bits = str(how.get("version", "gemm")).lower(), how.get("bits", how.get("w_bit", 4))
    return Reader.GGUFKIT if (version, bits) == ("gemm", 4) else None


def _bitsandbytes_title(how: Settings) -> str:
    if how.get("load_in_8bit") or how.get("_load_in_8bit"):
        return "INT8 by bitsandbytes"
    return f"{str(how.get('bnb_4bit_quant_type', '4 bits')).upper()} by bitsandbytes"


def _compressed_title(how: Settings) -> str:
    if _is_nvfp4(how):
        return "NVFP4 by compressed-tensors"
    kinds = {(w.get("type", "int"), w.get("num_bits")) for w in weights_of_groups(how)}
    names = sorted(f"{'FP' if kind == 'float' else 'INT'}{bits}" for kind, bits in kinds)
    return f"{' and '.join(names) or 'numbers'} by compressed-tensors"


def _is_nvfp4(how: Settings) -> bool:
    return how.get("format") == "nvfp4-pack-quantized"


def _compressed(how: Settings, tensors: Tensors) -> Reader | None:
    """The converter reads one group of matrices, in two layouts with few variants."""
    if _is_nvfp4(how):
        return Reader.CARRIED
    groups, layout = weights_of_groups(how), how.get("format")
    if not groups or not all(map(_is_plain, groups)):
        return None
    one, strategy = groups[0], groups[0].get("strategy")
    odd = any(name.endswith((".input_scale", ".weight_g_idx", "_zero_point")) for name in tensors)
    whole = layout in ("float-quantized", "int-quantized", "naive-quantized") and strategy == "channel"
    blocks = layout == "float-quantized" and strategy == "block" and one.get("block_structure") is not None
    packed = layout == "pack-quantized" and strategy == "group" and isinstance(one.get("group_size"), int)
    is_read = len(groups) == 1 and not odd and (whole or blocks or packed)
    return Reader.CONVERTER if is_read else Reader.GGUFKIT


def _is_plain(weights: Mapping[str, Any]) -> bool:
    """Whether numbers are held one by one: integers, or floats of eight bits."""
    return (weights.get("type", "int"), weights.get("num_bits")) in _PLAIN


_METHODS: dict[str, _Method] = {
    "fp8": _Method(_fp8_title, _fp8),
    "fbgemm_fp8": _Method(lambda _: "FP8 by FBGEMM", _always(Reader.GGUFKIT)),
    "mxfp4": _Method(lambda _: "MXFP4", _mxfp4, _never, _surely),
    "modelopt": _Method(_modelopt_title, _modelopt, _never, _is_modelopt_fp4),
    "bitnet": _Method(lambda _: "ternary numbers by BitNet", _always(Reader.CONVERTER), _never),
    "gptq": _Method(_gptq_title, _gptq),
    "awq": _Method(lambda how: f"INT{how.get('bits', how.get('w_bit', 4))} by AWQ", _awq),
    "bitsandbytes": _Method(_bitsandbytes_title, _always(Reader.GGUFKIT)),
    "compressed-tensors": _Method(_compressed_title, _compressed, lambda how: not _is_nvfp4(how), _is_nvfp4),
}  # fmt: skip
