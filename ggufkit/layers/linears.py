"""TABLE: a decoder layer's linears, the GGUF tensor that each becomes, and which of them share an input.

Sources: transformers' modeling files; llama.cpp's `gguf-py/gguf/tensor_mapping.py` and `conversion/`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

import torch


class Stage(IntEnum):
    """When the input of a linear becomes known while its layer runs, in that order."""

    ATTENTION_INPUT = 0
    ATTENTION_OUTPUT = 1
    MLP_INPUT = 2
    MLP_OUTPUT = 3


class _Row(NamedTuple):
    tensor: str
    input: str
    stage: Stage


# By module path in a decoder layer: the tensor in the GGUF, the input, and when that is known.
_LINEARS = {
    "self_attn.q_proj": _Row("attn_q", "attn_in", Stage.ATTENTION_INPUT),
    "self_attn.k_proj": _Row("attn_k", "attn_in", Stage.ATTENTION_INPUT),
    "self_attn.v_proj": _Row("attn_v", "attn_in", Stage.ATTENTION_INPUT),
    "self_attn.q_a_proj": _Row("attn_q_a", "attn_in", Stage.ATTENTION_INPUT),
    "self_attn.q_b_proj": _Row("attn_q_b", "q_b_in", Stage.ATTENTION_INPUT),
    "self_attn.kv_a_proj_with_mqa": _Row("attn_kv_a_mqa", "attn_in", Stage.ATTENTION_INPUT),
    "self_attn.qkv_proj": _Row("attn_qkv", "attn_in", Stage.ATTENTION_INPUT),
    "self_attn.o_proj": _Row("attn_output", "attn_out", Stage.ATTENTION_OUTPUT),
    "mlp.gate_proj": _Row("ffn_gate", "mlp_in", Stage.MLP_INPUT),
    "mlp.up_proj": _Row("ffn_up", "mlp_in", Stage.MLP_INPUT),
    "mlp.gate_up_proj": _Row("ffn_up", "mlp_in", Stage.MLP_INPUT),
    "mlp.down_proj": _Row("ffn_down", "mlp_out", Stage.MLP_OUTPUT),
    "mlp.shared_expert.gate_proj": _Row("ffn_gate_shexp", "mlp_in", Stage.MLP_INPUT),
    "mlp.shared_expert.up_proj": _Row("ffn_up_shexp", "mlp_in", Stage.MLP_INPUT),
    "mlp.shared_expert.down_proj": _Row("ffn_down_shexp", "shared_out", Stage.MLP_OUTPUT),
    "mlp.shared_experts.gate_proj": _Row("ffn_gate_shexp", "mlp_in", Stage.MLP_INPUT),
    "mlp.shared_experts.up_proj": _Row("ffn_up_shexp", "mlp_in", Stage.MLP_INPUT),
    "mlp.shared_experts.down_proj": _Row("ffn_down_shexp", "shared_out", Stage.MLP_OUTPUT),
    "mlp.experts.{e}.gate_proj": _Row("ffn_gate_exps", "experts.{e}.in", Stage.MLP_INPUT),
    "mlp.experts.{e}.up_proj": _Row("ffn_up_exps", "experts.{e}.in", Stage.MLP_INPUT),
    "mlp.experts.{e}.down_proj": _Row("ffn_down_exps", "experts.{e}.out", Stage.MLP_OUTPUT),
}
# The last linears of attention and MLP: what they give is all that these give.
_LAST = ("self_attn.o_proj", "mlp.down_proj")

# The converter reorders the rows of q and k of these model types, head by head (`LlamaModel.permute`).
_PERMUTED = ("llama", "mistral", "mixtral")

_EXPERT = re.compile(r"\.experts\.(\d+)\.")


@dataclass(frozen=True)
class Linear:
    """A linear of a decoder layer.

    Args:
        module: path within the layer, e.g. "self_attn.q_proj"; its weight is (out, in).
        tensor: GGUF tensor that holds the weight, e.g. "blk.0.attn_q.weight".
        input: key of its input; linears with the same key see the same activations.
        n_in: width of the input.
        expert: which slice of a stacked GGUF tensor (experts, out, in) it is; None if it is the whole tensor.
        row_heads: heads by which the converter reorders its rows (`to_file_rows`); None if rows stay.
        stage: when its input is known; None for what is in no layer.
    """

    module: str
    tensor: str
    input: str
    n_in: int
    expert: int | None = None
    row_heads: int | None = None
    stage: Stage | None = None

    @property
    def ends_block(self) -> bool:
        """Whether its output is that of the whole attention, or of the whole MLP."""
        return self.module in _LAST


def describe(
    modules: Iterable[tuple[str, int]], index: int, model_type: str, heads: tuple[int, int]
) -> list[Linear]:
    """The known linears among a layer's modules.

    Args:
        modules: (path within the layer, input width) of each linear module.
        index: the layer's number.
        heads: query heads and KV heads.
    """
    described = []
    for path, n_in in modules:
        match = _EXPERT.search(path)
        expert = int(match.group(1)) if match else None
        row = _LINEARS.get(_EXPERT.sub(".experts.{e}.", path))
        if row is not None:
            tensor, key = f"blk.{index}.{row.tensor}.weight", row.input.format(e=expert)
            permuted = _row_heads(path, model_type, heads)
            described.append(Linear(path, tensor, key, n_in, expert, permuted, row.stage))
    return described


def _row_heads(path: str, model_type: str, heads: tuple[int, int]) -> int | None:
    if model_type not in _PERMUTED:
        return None
    return {"self_attn.q_proj": heads[0], "self_attn.k_proj": heads[1]}.get(path)


def to_file_rows(weight: torch.Tensor, heads: int | None) -> torch.Tensor:
    """Rows in the checkpoint's order -> rows as the GGUF has them. `weight` is (rows, ...)."""
    return weight if heads is None else _swap(weight, (heads, 2, -1))


def from_file_rows(weight: torch.Tensor, heads: int | None) -> torch.Tensor:
    """Rows as the GGUF has them -> rows in the checkpoint's order: the inverse of `to_file_rows`."""
    return weight if heads is None else _swap(weight, (heads, -1, 2))


def _swap(weight: torch.Tensor, shape: tuple[int, int, int]) -> torch.Tensor:
    return weight.reshape(*shape, *weight.shape[1:]).transpose(1, 2).reshape(weight.shape)
