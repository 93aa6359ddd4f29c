"""TABLE: which norms and projections fold into which linears, per architecture.

A fold divides the output of `source` by one positive scale per channel and multiplies the columns of
`targets` by the same scales: the function stays as it is. Everything that reads the source's output must be
among the targets. Names are those of the checkpoint, within a decoder layer; `*` stands for every expert.
Source: transformers' modeling files of each architecture.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum

from ggufkit.core.errors import CheckpointError, UnsupportedArchitecture


class Divide(Enum):
    """How dividing a source's output by the scales changes its weights."""

    NORM = "w / s"
    NORM_PLUS_ONE = "(1 + w) / s - 1"
    LAST_ROWS = "the last rows / s"


@dataclass(frozen=True)
class Fold:
    """One vector of scales.

    Args:
        source: module whose output is divided; its bias, if any, is divided with it.
        targets: linears whose input columns are multiplied.
        divide: how the source's weights change.
        per_kv_channel: the source has a row for each KV channel, which all query heads of its group share.
    """

    source: str
    targets: tuple[str, ...]
    divide: Divide
    per_kv_channel: bool = False


def _norm(source: str, *targets: str, plus_one: bool = False) -> Fold:
    return Fold(source, targets, Divide.NORM_PLUS_ONE if plus_one else Divide.NORM)


_QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
_GATE_UP = ("mlp.gate_proj", "mlp.up_proj")
_V_TO_O = Fold("self_attn.v_proj", ("self_attn.o_proj",), Divide.LAST_ROWS, per_kv_channel=True)
_UP_TO_DOWN = Fold("mlp.up_proj", ("mlp.down_proj",), Divide.LAST_ROWS)
_EXPERT_UP_TO_DOWN = Fold("mlp.experts.*.up_proj", ("mlp.experts.*.down_proj",), Divide.LAST_ROWS)
_EXPERTS = ("mlp.gate", "mlp.experts.*.gate_proj", "mlp.experts.*.up_proj")
_SHARED = ("mlp.shared_expert.gate_proj", "mlp.shared_expert.up_proj", "mlp.shared_expert_gate")

_LLAMA = (
    _norm("input_layernorm", *_QKV),
    _V_TO_O,
    _norm("post_attention_layernorm", *_GATE_UP),
    _UP_TO_DOWN,
)

# The norm before the MLP has another name: post_attention_layernorm follows the attention's output.
_GEMMA = (
    _norm("input_layernorm", *_QKV, plus_one=True),
    _V_TO_O,
    _norm("pre_feedforward_layernorm", *_GATE_UP, plus_one=True),
    _UP_TO_DOWN,
)

# Fused: v is the last rows of qkv, up the second half of gate_up.
_PHI3 = (
    _norm("input_layernorm", "self_attn.qkv_proj"),
    Fold("self_attn.qkv_proj", ("self_attn.o_proj",), Divide.LAST_ROWS, per_kv_channel=True),
    _norm("post_attention_layernorm", "mlp.gate_up_proj"),
    Fold("mlp.gate_up_proj", ("mlp.down_proj",), Divide.LAST_ROWS),
)

# The router reads what the experts read. Layers without experts are laid out as Llama's.
_QWEN3_MOE = (*_LLAMA, _norm("post_attention_layernorm", *_EXPERTS), _EXPERT_UP_TO_DOWN)
_QWEN2_MOE = (
    *_LLAMA,
    _norm("post_attention_layernorm", *_EXPERTS, *_SHARED),
    _EXPERT_UP_TO_DOWN,
    Fold("mlp.shared_expert.up_proj", ("mlp.shared_expert.down_proj",), Divide.LAST_ROWS),
)

# Attention by latent vectors stays as it is: what its norms scale is read by matrices that a GGUF has in other shapes.
_SHARED_OF_DEEPSEEK = ("mlp.shared_experts.gate_proj", "mlp.shared_experts.up_proj")
_DEEPSEEK = (
    _norm("post_attention_layernorm", *_GATE_UP),
    _UP_TO_DOWN,
    _norm("post_attention_layernorm", *_EXPERTS, *_SHARED_OF_DEEPSEEK),
    _EXPERT_UP_TO_DOWN,
    Fold("mlp.shared_experts.up_proj", ("mlp.shared_experts.down_proj",), Divide.LAST_ROWS),
)

ARCHITECTURES: dict[str, tuple[Fold, ...]] = {
    "LlamaForCausalLM": _LLAMA,
    "MistralForCausalLM": _LLAMA,
    "Qwen2ForCausalLM": _LLAMA,
    "Qwen3ForCausalLM": _LLAMA,
    "Gemma2ForCausalLM": _GEMMA,
    "Gemma3ForCausalLM": _GEMMA,
    "Phi3ForCausalLM": _PHI3,
    "MixtralForCausalLM": _QWEN3_MOE,
    "Qwen2MoeForCausalLM": _QWEN2_MOE,
    "Qwen3MoeForCausalLM": _QWEN3_MOE,
    "DeepseekV2ForCausalLM": _DEEPSEEK,
    "DeepseekV3ForCausalLM": _DEEPSEEK,
}


def folds_of(architecture: str) -> tuple[Fold, ...]:
    """The row of an architecture, as `architectures` in config.json names it.

    Raises:
        UnsupportedArchitecture: the table has none.
    """
    try:
        return ARCHITECTURES[architecture]
    except KeyError:
        message = f"AWQ scaling knows no fold table for {architecture}."
        hint = "Use --variants imatrix, or add a row to ggufkit/awq/archs.py (see CONTRIBUTING.md)."
        raise UnsupportedArchitecture(message, hint=hint) from None


def folds_in_layer(folds: tuple[Fold, ...], modules: Collection[str]) -> list[Fold]:
    """The folds that one decoder layer has, with `*` written out expert by expert.

    Args:
        modules: the layer's modules that own weights, e.g. "mlp.experts.3.up_proj".

    Raises:
        CheckpointError: a fold is there in part, so that scaling would change the function.
    """
    experts = sorted({int(m.split(".")[2]) for m in modules if m.startswith("mlp.experts.")})
    present: list[Fold] = []
    for fold in folds:
        for written in _write_out(fold, experts):
            missing = [t for t in written.targets if t not in modules]
            if len(missing) == len(written.targets):
                continue
            if missing or written.source not in modules:
                message = f"A layer has {written.targets[0]} but not {', '.join(missing) or written.source}."
                raise CheckpointError(message, hint="This layout of weights is not known to --variants awq.")
            present.append(written)
    return present


def _write_out(fold: Fold, experts: list[int]) -> list[Fold]:
    if "*" not in fold.source:
        targets = [t.replace("*", str(e)) for t in fold.targets for e in (experts if "*" in t else [0])]
        return [Fold(fold.source, tuple(targets), fold.divide, fold.per_kv_channel)]
    return [
        Fold(fold.source.replace("*", str(e)), tuple(t.replace("*", str(e)) for t in fold.targets), fold.divide)
        for e in experts
    ]
